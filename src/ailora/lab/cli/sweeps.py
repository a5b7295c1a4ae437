"""What commands that do many runs share: the engine, the estimate, the board, the summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from ailora.cli.console import console, say
from ailora.cli.narrow import Fitted
from ailora.errors import UserError
from ailora.lab.cli.words import result_words, run_words
from ailora.lab.experiments import sweep as run_all
from ailora.lab.experiments.best_rates import standings, varied
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.grid import merged
from ailora.lab.experiments.jobs import Elsewhere, Ended, Event, Step, Tasks, jobs_of
from ailora.lab.experiments.store import Failure
from ailora.lab.experiments.sweep import Agenda
from ailora.lab.experiments.wording import counted, duration, number_words, setting_words

if TYPE_CHECKING:
    from ailora.lab.experiments import Grid, Outcome, Store
    from ailora.lab.experiments.engines.local import Local
    from ailora.lab.experiments.engines.ray import OnRay
    from ailora.lab.experiments.jobs import Job
    from ailora.lab.experiments.store import Run
    from ailora.lab.settings import RunConfig


def engine_named(
    name: str,
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    cpus_per_run: float = 1,
    gpus_per_run: float = 0,
) -> Local | OnRay:
    """The engine that the options describe.

    Raises:
        UserError: There is none of that name, or a number is out of range.
    """
    if name == "local":
        from ailora.lab.experiments.engines.local import Local

        return Local(workers, threads)
    if name == "ray":
        from ailora.lab.experiments.engines.ray import OnRay

        return OnRay(address, cpus_per_run=cpus_per_run, gpus_per_run=gpus_per_run)
    raise UserError(f"--engine {name!r}: must be local or ray")


def do_runs(
    runs: Iterable[RunConfig],
    store: Store,
    engine: Here | Local | OnRay,
    *,
    tasks: Tasks | None = None,
    estimate: bool = True,
    retry: bool = False,
    say_data: bool = True,
) -> Outcome:
    """Say what is done already and how long the rest takes, and do it while a board is shown."""
    tasks = tasks or Tasks()
    jobs, todo, states = look(runs, store, tasks, retry=retry, say_data=say_data)
    weights = estimated(engine, todo, store) if estimate else {}
    ended = [state in ("finished", "failed") for state in states.values()]
    names = tuple(job.run_id for job in jobs)
    agenda: Agenda | None = Agenda(runs=names, ended=sum(ended), began=time.time())
    board = Board(jobs, weights or dict.fromkeys((job.run_id for job in todo), 1.0), console)

    def tell(event: Event) -> None:
        nonlocal agenda
        if agenda is not None:  # not before the first run goes well: bad input leaves nothing
            agenda.write(store.path)
            agenda = None
        board.tell(event)

    with board.shown():
        return run_all(
            [job.config for job in jobs], store, engine, tasks=tasks, retry=retry, on_event=tell
        )


def look(
    runs: Iterable[RunConfig], store: Store, tasks: Tasks, *, retry: bool, say_data: bool = True
) -> tuple[list[Job], list[Job], dict[str, str]]:
    """All runs, those left to do, and the state of each by its name.

    Also prints what was read of the data, and how many runs are in which state.
    """
    with console.status("reading the data"):
        jobs = jobs_of(runs, tasks, store)
    for line in tasks.said() if say_data else ():
        say(line)
    states = states_of(jobs, store)
    if set(states.values()) != {"new"}:
        console.print(states_words(list(states.values())), highlight=False)
    return jobs, left_to_do(jobs, states, retry=retry), states


def states_of(jobs: Sequence[Job], store: Store) -> dict[str, str]:
    """The state of each run in a store by its name; "new" where there is nothing of it."""
    found = {job.run_id: store.read(job.run_id).state for job in jobs}
    return {name: "new" if state == "unknown" else state for name, state in found.items()}


def states_words(states: Sequence[str]) -> str:
    """How many runs are in which state, in words."""
    known = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    return f"{counted(len(states), 'run')}: {known}"


def left_to_do(jobs: Sequence[Job], states: dict[str, str], *, retry: bool) -> list[Job]:
    """The runs that a sweep will do; warns of data that cannot be read."""
    for reason in dict.fromkeys(job.unreadable.reason for job in jobs if job.unreadable):
        say(f"warning: {reason}")
    ended = {"finished", "damaged"} if retry else {"finished", "damaged", "failed"}
    return [job for job in jobs if states[job.run_id] not in ended and job.unreadable is None]


def estimated(
    engine: Here | Local | OnRay, todo: Sequence[Job], store: Store, *, dry_run: bool = False
) -> dict[str, float]:
    """Say how long the runs will take; the seconds of each by its name."""
    from ailora.lab.experiments.calibration import kind, seconds
    from ailora.lab.experiments.engines.local import Local

    if not todo or not isinstance(engine, Local):
        return {}
    with console.status("measuring a few steps"):
        layout = engine.layout(todo, store, remember=not dry_run)
        costs = engine.costs(todo, store, remember=not dry_run)
    if dry_run:
        engine.close()
    known = {job.run_id: kind(job.config) for job in todo if kind(job.config) in costs}
    found = {
        job.run_id: seconds(job, costs[known[job.run_id]]) for job in todo if job.run_id in known
    }
    whole = sum(found.values()) / min(layout.workers, len(todo))
    unmeasured = len(todo) - len(found)
    console.print(
        f"about {duration(whole)} for {counted(len(found), 'run')}, {layout.workers} at a time "
        f"with {counted(layout.threads, 'thread')} each"
        + (f"; {unmeasured} could not be measured" if unmeasured else ""),
        highlight=False,
    )
    return found


def say_merged(grids: Sequence[Grid]) -> None:
    """Say which of the methods asked for are the same runs, and are done once."""
    for words in merged(grids):
        say(words)


def say_failed(outcome: Outcome, names: Sequence[str]) -> None:
    """Print every run that failed and why, one line each."""
    for failed in outcome.failed:
        say(f"{run_words(failed.config, names)}  {result_words(failed)}")


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
        self.names = varied([asdict(job.config) for job in jobs])
        self.runs: list[Run] = []
        self.failed = 0
        self.running: dict[str, Step] = {}
        self._began = time.monotonic()
        self._finished = 0  # since then
        self._ended = self._began  # when a run ended last: between two ends the pace stands still
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
        """Take note of an event of the sweep."""
        run_id = event.job.run_id
        if isinstance(event, Step):
            self.running[run_id] = event
        elif isinstance(event, Ended):
            self._count(event)
            if not event.before:
                self._say(f"{run_words(asdict(event.job.config), self.names)}  {self._how(event)}")
        elif isinstance(event, Elsewhere) and run_id not in self._elsewhere:
            self._elsewhere.add(run_id)
            self._say(f"{run_words(asdict(event.job.config), self.names)}  is done elsewhere")
        if self._live is not None:
            self._live.update(self.render())

    def counts(self) -> str:
        """How many runs have ended, are running and have failed."""
        ended = len(self.runs) + self.failed
        return f"{ended} of {self.total} ended, {len(self.running)} running, {self.failed} failed"

    def pace(self) -> str:
        """Runs an hour and the time left, as far as they are known."""
        rate, left = self.runs_an_hour(), self.seconds_left()
        words = [] if rate is None else [f"{number_words(float(f'{rate:.2g}'))} runs an hour"]
        words += [] if left is None else [f"about {duration(left)} left"]
        return ", ".join(words)

    def runs_an_hour(self) -> float | None:
        """How many it finishes in an hour, at the pace so far; None before the first."""
        passed = self._ended - self._began
        return self._finished * 3600 / passed if self._finished and passed > 0 else None

    def seconds_left(self) -> float | None:
        """Seconds left, by what the finished runs have cost; None before the first has ended."""
        if not self._done or not self._left:
            return None
        began = sum(
            self.weights[run_id] * step.step / step.steps
            for run_id, step in self.running.items()
            if step.what == "training"
        )
        return max(0.0, self._left - began) * (self._ended - self._began) / self._done

    def render(self) -> Group:
        """The board: progress, current runs, and each setting's best so far."""
        bar = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        bar.add_task(self.counts(), total=self.total, completed=len(self.runs) + self.failed)
        pace = [Text(self.pace())] if self.pace() else []
        lines = [
            Text(f"  {run_words(asdict(e.job.config), self.names)}  {e.what} {e.step}/{e.steps}")
            for e in self.running.values()
        ]
        return Group(bar, *pace, *lines, standings_shown(self.runs, self.names, "so far"))

    def _count(self, event: Ended) -> None:
        self.running.pop(event.job.run_id, None)
        if not event.before:
            self._ended = time.monotonic()
        if isinstance(event.result, Failure):
            self.failed += 1
        else:
            self.runs.append(event.result)
            self._finished += not event.before
        weight = self.weights.get(event.job.run_id, 0.0)
        self._left -= weight
        self._done += weight

    def _how(self, event: Ended) -> str:
        words = result_words(event.result)
        told = ", ".join(filter(None, (self.counts(), self.pace())))
        return words if self._live is not None else f"{words}  ({told})"

    def _say(self, words: str) -> None:
        self.console.print(words, highlight=False, markup=False, soft_wrap=True)


def standings_shown(runs: Sequence[Run], names: Sequence[str], title: str) -> Fitted:
    """The table of `standings_table` as a narrow terminal takes it."""
    drop = ("selection", "seeds", "metric")
    return Fitted(standings_table(runs, names, title), whole=(*names, "lr", "test"), drop=drop)


def standings_table(runs: Sequence[Run], names: Sequence[str], title: str) -> Table:
    """Each setting at its best rate: seeds, and the scores that chose and that are reported."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    if len({run["config"]["lr"] for run in runs}) > 1:
        table.caption = "rates were chosen by the selection scores; test scores chose nothing"
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("lr", "seeds", "metric", "selection", "test"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for one in standings(runs):
        spread = "" if one.spread is None else f" ± {one.spread:.4f}"
        scores = (one.metric, f"{one.selection:.4f}", f"{one.test:.4f}{spread}")
        settings = (setting_words(one.config, name) for name in names)
        table.add_row(*map(Text, (*settings, number_words(one.rate), str(one.seeds), *scores)))
    return table
