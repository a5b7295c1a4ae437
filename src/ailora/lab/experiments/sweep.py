"""Many runs: what is finished is kept, what was interrupted goes on, what fails is written down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ailora.lab.experiments.choice import at_best_rates, best_rates
from ailora.lab.experiments.engines.base import Engine
from ailora.lab.experiments.events import Elsewhere, Ended, Event, Tell
from ailora.lab.experiments.failure import Failure
from ailora.lab.experiments.jobs import Job, Tasks, jobs_of, unread_id
from ailora.lab.experiments.store import Run, Store
from ailora.lab.training import RunConfig

POLL = 2.0  # seconds between two looks at a run that another process does


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Finished and failed runs in the order asked for, and the rates that are reported.

    Attributes:
        runs: Results of the finished runs.
        names: Of their folders in the store.
        failed: Why the others are not.
        rates: The chosen learning rate by setting (`ailora.lab.experiments.choice.setting_of`).
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    failed: tuple[Failure, ...]
    rates: Mapping[str, float]

    @property
    def reported(self) -> tuple[Run, ...]:
        """The runs at their setting's own rate."""
        return at_best_rates(self.runs, self.rates)


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
        engine: Does them: ``Here``, ``Local`` or ``OnRay`` of `ailora.lab.experiments.engines`.
        tasks: Data that is loaded already; by default it is read here.
        retry: Try again what failed before; otherwise it counts as failed.
        on_event: Called with every `Step`, `Ended` and `Elsewhere`.
    """
    jobs = jobs_of(runs, tasks if tasks is not None else Tasks())
    ended: dict[str, Run | Failure] = {}
    elsewhere: set[str] = set()

    def tell(event: Event) -> None:
        if isinstance(event, Ended):
            ended[event.job.run_id] = event.result
        elif isinstance(event, Elsewhere):
            elsewhere.add(event.job.run_id)
        on_event(event)

    todo = [job for job in jobs if not _known(job, store, retry, tell)]
    while todo:
        engine.run(todo, store, tell)
        left = [job for job in todo if job.run_id not in ended]
        lost = [job.run_id for job in left if job.run_id not in elsewhere]
        if lost:
            raise RuntimeError(f"the engine returned without a word on {lost}")
        todo = _wait_for(left, store, tell)
    return _outcome({job.run_id: ended[job.run_id] for job in jobs})


def _known(job: Job, store: Store, retry: bool, tell: Tell) -> bool:
    """Whether there is nothing to do for a run, which is then told."""
    if job.unreadable is not None:
        store.fail(job.run_id, job.unreadable)
        tell(Ended(job, job.unreadable))
        return True
    unread = unread_id(job.config)
    if store.failure(unread) is not None:  # the data was not to be had then
        store.remove(unread)
    if retry and store.read(job.run_id).state == "failed":
        store.forgive(job.run_id)
    return _tell_if_ended(job, store, tell, before=True)


def _wait_for(jobs: Sequence[Job], store: Store, tell: Tell) -> list[Job]:
    """Until other processes have done these runs; those that they left undone."""
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
        store.tidy(job.run_id)
    tell(Ended(job, result, before))
    return True


def _outcome(results: Mapping[str, Run | Failure]) -> Outcome:
    finished = {name: run for name, run in results.items() if not isinstance(run, Failure)}
    failed = tuple(result for result in results.values() if isinstance(result, Failure))
    runs = tuple(finished.values())
    return Outcome(runs=runs, names=tuple(finished), failed=failed, rates=best_rates(runs))
