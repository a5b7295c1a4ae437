"""Many runs: what is finished is kept, what was interrupted goes on, what fails is written down."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ailora.errors import MALFORMED
from ailora.files import parse_json, read_text, write_json
from ailora.html_table import html_table
from ailora.lab.experiments.best_rates import at_best_rates, best_rates
from ailora.lab.experiments.jobs import (
    Elsewhere,
    Ended,
    Event,
    Job,
    Tasks,
    Tell,
    jobs_of,
    unread_id,
)
from ailora.lab.experiments.store import Failure, Run, Store
from ailora.lab.experiments.wording import setting_words
from ailora.lab.training import RunConfig

POLL = 2.0  # seconds between two looks at a run that another process is doing
AGENDA = "sweep.json"  # in the folder of runs
_SHOWN = ("method", "task", "lr", "seed")  # settings that notebooks show of each run


class Engine(Protocol):
    """Does runs, in any order and any number at a time."""

    def open(self) -> AbstractContextManager[None]:
        """Keep what runs need until the block ends: processes, the connection to a cluster.

        `run` opens it for itself. Around several calls it saves their starting anew.
        """
        ...

    def run(self, jobs: Sequence[Job], store: Store, tell: Tell) -> None:
        """Do each run, into its folder of the store.

        ``tell`` gets an `Ended` for every run, or an `Elsewhere` where another process holds its
        folder; it is called from this thread alone. Failures are written down in the store.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Finished and failed runs in the order asked for, and the rates that are reported.

    Attributes:
        runs: Results of the finished runs.
        names: Names of their folders in the store.
        failed: Why the others are not finished.
        rates: The chosen learning rate by setting (`ailora.lab.experiments.best_rates.setting_of`).
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    failed: tuple[Failure, ...]
    rates: Mapping[str, float]

    @property
    def reported(self) -> tuple[Run, ...]:
        """The runs at their setting's own rate."""
        return at_best_rates(self.runs, self.rates)

    def _repr_html_(self) -> str:
        rows = []
        for run in self.runs:
            config, metric = run["config"], run["data"]["metric"]
            scores = (f"{run['metrics'][split][metric]:.4f}" for split in ("selection", "test"))
            rows.append((*(setting_words(config, name) for name in _SHOWN), metric, *scores))
        failed = (
            f"failed: {', '.join(setting_words(one.config, name) for name in _SHOWN)}: {one.reason}"
            for one in self.failed
        )
        return html_table((*_SHOWN, "metric", "selection", "test"), rows, notes=failed)


def sweep(
    runs: Iterable[RunConfig],
    store: Store,
    engine: Engine,
    *,
    tasks: Tasks | None = None,
    retry: bool = False,
    on_event: Tell = lambda event: None,
) -> Outcome:
    """Do all runs that are not done yet and choose each setting's learning rate.

    Several processes may work on one store: each run is done by one of them, and each comes back
    with the results of all.

    Args:
        runs: The runs; equal ones are done once.
        store: Where their folders are.
        engine: One of `ailora.lab.experiments.engines`: ``Here``, ``Local`` or ``OnRay``.
        tasks: Data that is loaded already; by default it is read here.
        retry: Try again what failed before; otherwise it counts as failed.
        on_event: Called with every `Step`, `Ended` and `Elsewhere`.
    """
    jobs = jobs_of(runs, tasks if tasks is not None else Tasks(), store)
    ended: dict[str, Run | Failure] = {}
    elsewhere: set[str] = set()

    def tell(event: Event) -> None:
        if isinstance(event, Ended):
            ended[event.job.run_id] = event.result
        elif isinstance(event, Elsewhere):
            elsewhere.add(event.job.run_id)
        on_event(event)

    todo = [job for job in jobs if not _known(job, store, retry, tell)]
    with engine.open():
        while todo:
            engine.run(todo, store, tell)
            left = [job for job in todo if job.run_id not in ended]
            lost = [job.run_id for job in left if job.run_id not in elsewhere]
            if lost:
                raise RuntimeError(f"the engine returned without a word on {lost}")
            todo = _wait_for(left, store, tell)
    return _outcome({job.run_id: ended[job.run_id] for job in jobs})


@dataclass(frozen=True, kw_only=True)
class Agenda:
    """What the sweep that began last in a folder is to do, for those who watch the folder.

    Attributes:
        runs: Names of its runs.
        ended: How many of them had ended before it began.
        began: When it began, in seconds since 1970.
    """

    runs: tuple[str, ...]
    ended: int
    began: float

    @classmethod
    def read(cls, folder: Path) -> Agenda | None:
        """The agenda in a folder of runs; None if there is none, or something else in its place."""
        try:
            found = parse_json(read_text(folder / AGENDA))
            agenda = cls(
                runs=tuple(map(str, found["runs"])),
                ended=int(found["ended"]),
                began=float(found["began"]),
            )
        except (OSError, *MALFORMED):
            return None
        return agenda

    def write(self, folder: Path) -> None:
        """Write it down.

        Raises:
            UserError: The folder cannot be written.
        """
        write_json(folder / AGENDA, asdict(self))

    def left(self, ended: Collection[str]) -> int:
        """Number of its runs that are not among those that ended."""
        return len(set(self.runs) - set(ended))

    def seconds_left(self, ended: Collection[str]) -> float | None:
        """Seconds until all have ended, at the pace so far; None before the first has."""
        left = self.left(ended)
        since = len(self.runs) - left - self.ended
        return left * (time.time() - self.began) / since if since > 0 else None


def _known(job: Job, store: Store, retry: bool, tell: Tell) -> bool:
    """Whether a run needs nothing done; if so, its end is told."""
    if job.unreadable is not None:
        store.fail(job.run_id, job.unreadable)
        tell(Ended(job, job.unreadable))
        return True
    found = store.read(job.run_id)
    if found.state == "damaged":  # not done again, since that would overwrite what is there
        settings = asdict(job.config)
        tell(Ended(job, Failure(config=settings, kind="input", reason=found.damage)))
        return True
    unread = unread_id(job.config)
    if store.failure(unread) is not None:  # the data could not be read then
        store.remove(unread)
    if retry and found.state == "failed":
        store.forgive(job.run_id)
    return _tell_if_ended(job, store, tell, before=True)


def _wait_for(jobs: Sequence[Job], store: Store, tell: Tell) -> list[Job]:
    """Wait while other processes do these runs; return those that they left undone."""
    waiting = list(jobs)
    while waiting:
        waiting = [job for job in waiting if not _tell_if_ended(job, store, tell)]
        free = [job for job in waiting if store.read(job.run_id).state != "running"]
        if free:
            return waiting
        time.sleep(POLL if waiting else 0)
    return []


def _tell_if_ended(job: Job, store: Store, tell: Tell, *, before: bool = False) -> bool:
    found = store.read(job.run_id)
    result = found.result or found.failure
    if result is None:
        return False
    if found.result is not None:
        store.folder(job.run_id).tidy()
    tell(Ended(job, result, before))
    return True


def _outcome(results: Mapping[str, Run | Failure]) -> Outcome:
    finished = {name: run for name, run in results.items() if not isinstance(run, Failure)}
    failed = tuple(result for result in results.values() if isinstance(result, Failure))
    runs = tuple(finished.values())
    return Outcome(runs=runs, names=tuple(finished), failed=failed, rates=best_rates(runs))
