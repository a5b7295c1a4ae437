"""The progress of work on files: one bar for each thing that is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import TaskID

from ailora.cli.console import progress


@contextmanager
def streaming() -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows what is being done, with the time left."""
    with progress() as bars:
        started: dict[str, TaskID] = {}

        def show(doing: str, done: int, total: int) -> None:
            if doing not in started:
                started[doing] = bars.add_task(doing, total=total)
            bars.update(started[doing], completed=done, total=total)

        yield show
