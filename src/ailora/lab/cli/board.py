"""A sweep while it goes on: a board in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from ailora.lab.cli.words import result_words, run_words, value_words
from ailora.lab.experiments.duration import duration
from ailora.lab.experiments.events import Elsewhere, Ended, Event, Step
from ailora.lab.experiments.failure import Failure
from ailora.lab.experiments.standings import standings, varied

if TYPE_CHECKING:
    from ailora.lab.experiments.jobs import Job
    from ailora.lab.experiments.store import Run


class Board:
    """Counts what is done, and shows it.

    Args:
        jobs: All runs of the sweep.
        weights: What each costs by its name, in any unit: the time left is told by it.
        console: Where it is shown.
    """

    def __init__(self, jobs: Sequence[Job], weights: Mapping[str, float], console: Console) -> None:
        self.total = len(jobs)
        self.weights = weights
        self.console = console
        self.names = varied([_config(job) for job in jobs])
        self.runs: list[Run] = []
        self.failed = 0
        self.running: dict[str, Step] = {}
        self._began = time.monotonic()
        self._left = sum(weights.values())
        self._done = 0.0
        self._live: Live | None = None
        self._elsewhere: set[str] = set()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it, where there is a terminal, until the sweep ends."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self.render(), console=self.console, refresh_per_second=4) as self._live:
            yield
            self._live.update(Text(""))

    def tell(self, event: Event) -> None:
        """Take in what the sweep tells."""
        run_id = event.job.run_id
        if isinstance(event, Step):
            self.running[run_id] = event
        elif isinstance(event, Ended):
            self._count(event)
            if not event.before:
                self._say(f"{run_words(_config(event.job), self.names)}  {self._how(event)}")
        elif isinstance(event, Elsewhere) and run_id not in self._elsewhere:
            self._elsewhere.add(run_id)
            self._say(f"{run_words(_config(event.job), self.names)}  is done elsewhere")
        if self._live is not None:
            self._live.update(self.render())

    def counts(self) -> str:
        """How far it is."""
        ended = len(self.runs) + self.failed
        words = f"{ended} of {self.total} ended, {len(self.running)} running, {self.failed} failed"
        left = self.seconds_left()
        return words if left is None else f"{words}, about {duration(left)} left"

    def seconds_left(self) -> float | None:
        """By what the runs that ended have cost; None before the first has."""
        if not self._done or not self._left:
            return None
        began = sum(
            self.weights[run_id] * step.step / step.steps
            for run_id, step in self.running.items()
            if step.what == "training"
        )
        speed = self._done / (time.monotonic() - self._began)
        return max(0.0, self._left - began) / speed

    def render(self) -> Group:
        """The board: how far, what runs, and each setting's best so far."""
        bar = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        bar.add_task(self.counts(), total=self.total, completed=len(self.runs) + self.failed)
        lines = [
            Text(f"  {run_words(_config(e.job), self.names)}  {e.what} {e.step}/{e.steps}")
            for e in self.running.values()
        ]
        return Group(bar, *lines, standings_table(self.runs, self.names, "so far"))

    def _count(self, event: Ended) -> None:
        self.running.pop(event.job.run_id, None)
        if isinstance(event.result, Failure):
            self.failed += 1
        else:
            self.runs.append(event.result)
        weight = self.weights.get(event.job.run_id, 0.0)
        self._left -= weight
        self._done += weight

    def _how(self, event: Ended) -> str:
        words = result_words(event.result)
        return words if self._live is not None else f"{words}  ({self.counts()})"

    def _say(self, words: str) -> None:
        self.console.print(words, highlight=False, markup=False, soft_wrap=True)


def standings_table(runs: Sequence[Run], names: Sequence[str], title: str) -> Table:
    """Each setting at its best rate: seeds, and the scores that chose and that are reported."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = "rates were chosen by the selection scores; test scores chose nothing"
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("lr", "seeds", "metric", "selection", "test"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for one in standings(runs):
        spread = "" if one.spread is None else f" ± {one.spread:.4f}"
        scores = (one.metric, f"{one.selection:.4f}", f"{one.test:.4f}{spread}")
        settings = (value_words(one.config[name]) for name in names)
        table.add_row(*map(Text, (*settings, f"{one.rate:g}", str(one.seeds), *scores)))
    return table


def _config(job: Job) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(job.config)
