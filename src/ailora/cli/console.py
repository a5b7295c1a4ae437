"""The terminal: one console, quiet libraries, progress with the time left."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ailora.cli.endings import harmless
from ailora.cli.narrow import Fitted

T = TypeVar("T")


class Terminal(Console):
    """A console that writes no command to the terminal but its own: see `endings.harmless`."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Rich's own, with the texts made harmless."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else harmless(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


# Of the processes that torchrun starts, only the first prints.
console = Terminal(quiet=int(os.environ.get("RANK", "0")) > 0)


def quiet_libraries() -> None:
    """Show each of ailora's own warnings once, and none of the libraries' notices."""
    import transformers

    own = logging.getLogger("ailora")
    for earlier in [one for one in own.handlers if isinstance(one, RichHandler)]:
        own.removeHandler(earlier)
    handler = RichHandler(console=Terminal(stderr=True), show_time=False, show_path=False)
    handler.addFilter(_first_time())
    own.addHandler(handler)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries, five of them
    logging.getLogger("datasets").setLevel(logging.ERROR)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


def _first_time() -> Callable[[logging.LogRecord], bool]:
    """Whether a message is new: sixty runs on the same rows warn of the same ones."""
    seen: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        known = record.getMessage() in seen
        seen.add(record.getMessage())
        return not known

    return new


def say(words: str) -> None:
    """Print one line as it is: no markup, no colours of its own, not broken at the width."""
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def show(table: Table, *, whole: Collection[str], drop: Sequence[str] = ()) -> None:
    """Print a table, on a narrow terminal as `ailora.cli.narrow.Fitted` lays it out."""
    console.print(Fitted(table, whole=whole, drop=drop), crop=False)


def literal(words: str) -> str | Text:
    """A table's cell that shows a text as it is: without signs of markup and emoji, itself."""
    return Text(words) if "[" in words or ":" in words else words


def progress(*, transient: bool = False) -> Progress:
    """A bar with the time passed and the time left; nothing where output goes to a file.

    A ``transient`` one is gone once it is done.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )


def along(doing: str) -> Callable[[Sequence[T]], Iterable[T]]:
    """A function that iterates over a sequence while a bar shows the progress."""

    def shown(items: Sequence[T]) -> Iterator[T]:
        with progress() as bar:
            yield from bar.track(items, description=doing)

    return shown


@contextmanager
def streaming() -> Iterator[Callable[[str, int, int], None]]:
    """A callback for work on files: one bar for each thing that is done, with the time left."""
    with progress() as bars:
        started: dict[str, TaskID] = {}

        def show(doing: str, done: int, total: int) -> None:
            if doing not in started:
                started[doing] = bars.add_task(doing, total=total)
            bars.update(started[doing], completed=done, total=total)

        yield show
