"""The terminal: one console, quiet libraries, progress with the time left."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

console = Console(quiet=int(os.environ.get("RANK", "0")) > 0)  # of torchrun's processes, one speaks


def quiet_libraries() -> None:
    """Show ailora's own warnings, and not the notices of what it stands on."""
    import transformers

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logging.getLogger("ailora").addHandler(handler)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


def progress() -> Progress:
    """A bar with the time passed and the time left; nothing in a log."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def along(doing: str) -> Callable[[Sequence[T]], Iterable[T]]:
    """Makes a way to go through a sequence while a bar shows how far one is."""

    def shown(items: Sequence[T]) -> Iterator[T]:
        with progress() as bar:
            yield from bar.track(items, description=doing)

    return shown
