"""One run in several processes, as torchrun or ``accelerate launch`` start them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import PartialState

from ailora.errors import UserError
from ailora.lock import held


def state() -> PartialState:
    """Who this process is among those of the run; alone without a launcher."""
    return PartialState(cpu=not torch.accelerator.is_available())


def share_of(rows: int) -> int:
    """Rows that each process holds at once, of so many in all.

    Raises:
        UserError: They cannot be shared out evenly.
    """
    processes = int(state().num_processes)
    if rows % processes:
        raise UserError(
            f"{rows} rows at once cannot be shared out to {processes} processes; give a batch size "
            f"(or micro batch size) that is a multiple of {processes}"
        )
    return rows // processes


@contextmanager
def alone_in(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold a run's folder for all processes of the run; the main one does.

    Yields:
        Raises a LockedError once another run has taken the folder over.

    Raises:
        LockedError: Another run that lives holds it.
    """
    with held(folder) if state().is_main_process else nullcontext() as hold:
        state().wait_for_everyone()  # from here on nobody else can finish it
        yield hold.check if hold is not None else lambda: None
