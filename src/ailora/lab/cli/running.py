"""What commands that do many runs share: which engine, how long, the board, how it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ailora.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailora.lab.experiments import Outcome, Store
    from ailora.lab.experiments.engines.local import Local
    from ailora.lab.experiments.engines.ray import OnRay
    from ailora.lab.experiments.jobs import Job, Tasks


def engine_named(
    name: str,
    workers: int | None,
    threads: int | None,
    address: str | None,
    cpus_per_run: float,
    gpus_per_run: float,
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


def states_of(jobs: Sequence[Job], store: Store) -> dict[str, str]:
    """The state of each run in a store by its name; "new" where there is nothing of it."""
    found = {job.run_id: store.read(job.run_id).state for job in jobs}
    return {name: "new" if state == "unknown" else state for name, state in found.items()}


def counted(states: Sequence[str]) -> str:
    """How many runs are in which state, in words."""
    from collections import Counter

    known = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    return f"{len(states)} runs: {known}"


def left_to_do(jobs: Sequence[Job], states: dict[str, str], *, retry: bool) -> list[Job]:
    """The runs that a sweep will do; data that cannot be read is warned of."""
    from ailora.cli.console import console

    for reason in dict.fromkeys(job.unreadable.reason for job in jobs if job.unreadable):
        console.print(f"warning: {reason}", highlight=False, markup=False, soft_wrap=True)
    ended = {"finished"} if retry else {"finished", "failed"}
    return [job for job in jobs if states[job.run_id] not in ended and job.unreadable is None]


def estimated(
    engine: Local | OnRay, todo: Sequence[Job], store: Store, *, dry_run: bool = False
) -> dict[str, float]:
    """Say how long the runs will take; the seconds of each by its name."""
    from ailora.cli.console import console
    from ailora.lab.experiments.cost import kind, seconds
    from ailora.lab.experiments.duration import duration
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
        f"about {duration(whole)} for {len(found)} runs, {layout.workers} at a time with "
        f"{layout.threads} thread{'s' * (layout.threads > 1)} each"
        + (f"; {unmeasured} could not be measured" if unmeasured else ""),
        highlight=False,
    )
    return found


def run_shown(
    jobs: Sequence[Job],
    weights: dict[str, float],
    store: Store,
    engine: Local | OnRay,
    tasks: Tasks,
    *,
    retry: bool = False,
) -> Outcome:
    """Do the runs while a board shows how far they are."""
    from ailora.cli.console import console
    from ailora.lab.cli.board import Board
    from ailora.lab.experiments import sweep as run_all
    from ailora.lab.experiments.agenda import Agenda

    ended = [state in ("finished", "failed") for state in states_of(jobs, store).values()]
    names = tuple(job.run_id for job in jobs)
    Agenda(runs=names, ended=sum(ended), began=time.time()).write(store.path)
    board = Board(jobs, weights, console)
    with board.shown():
        return run_all(
            [job.config for job in jobs],
            store,
            engine,
            tasks=tasks,
            retry=retry,
            on_event=board.tell,
        )


def say_failed(outcome: Outcome, names: Sequence[str]) -> None:
    """Every run that failed and why, a line each."""
    from ailora.cli.console import console
    from ailora.lab.cli.words import result_words, run_words

    for failed in outcome.failed:
        console.print(
            f"{run_words(failed.config, names)}  {result_words(failed)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
