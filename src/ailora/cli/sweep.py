"""``ailora sweep``: many runs from one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ailora.cli import options
from ailora.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailora.experiments import Outcome, Store
    from ailora.experiments.engines.local import Local
    from ailora.experiments.engines.ray import OnRay
    from ailora.experiments.grid import Grid
    from ailora.experiments.jobs import Job, Tasks

_LOCAL, _RAY = "Local engine", "Ray"


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML with [common] and [grid], or Python.")
    ],
    out: options.Out = Path("sweep"),
    dry_run: Annotated[
        bool, typer.Option(help="Print what would run and for how long, and write nothing.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option(help="Do a few steps of each kind of run first, to say how long it is.")
    ] = True,
    retry_failed: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    engine: Annotated[
        str, typer.Option(help="local: processes on this machine; ray: a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(help="Runs at a time. Default: the fastest.", rich_help_panel=_LOCAL),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Of each worker. Default: the fastest.", rich_help_panel=_LOCAL),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of the cluster. Default: one on this machine.", rich_help_panel=_RAY),
    ] = None,
    cpus_per_run: Annotated[
        float, typer.Option(help="Cores that each run gets.", rich_help_panel=_RAY)
    ] = 1,
    gpus_per_run: Annotated[
        float, typer.Option(help="Accelerators that each run gets.", rich_help_panel=_RAY)
    ] = 0,
) -> None:
    """Do every run of a sweep file that is not done yet, several at a time.

    A file is `[common]` with settings that all share (`ailora train --help` has their names, with
    _ for -) and `[grid]` with lists of values to combine:

        [common]
        task = "movies"
        limit = 640
        [grid]
        method = ["lora", "ailora"]
        lr = [1e-3, 2e-3]
        seed = [0, 1, 2]

    Stop it and call it again: finished runs are kept, interrupted ones go on to the same end.

    Examples: `ailora sweep sweep.toml --dry-run` · `ailora sweep sweep.toml --out results` ·
    `ailora sweep sweep.toml --engine ray --address auto --gpus-per-run 1`
    """
    from ailora.cli.console import console, quiet_libraries
    from ailora.experiments import Store
    from ailora.experiments.grid import distinct
    from ailora.experiments.jobs import Tasks, jobs_of
    from ailora.experiments.plan import read_plan
    from ailora.training.folder import check_writable

    quiet_libraries()
    chosen = _engine(engine, workers, threads, (address, cpus_per_run, gpus_per_run))
    grids, store, tasks = read_plan(file), Store(out), Tasks()
    check_writable(out)
    with console.status("reading the data"):
        jobs = jobs_of(distinct(grids), tasks)
    todo = _say_plan(file, grids, jobs, store, retry_failed)
    weights = _weights(chosen, todo, store, dry_run) if estimate else {}
    if dry_run:
        return
    outcome = _run(jobs, weights, store, chosen, tasks, retry_failed)
    _say_outcome(outcome)
    if outcome.failed:
        raise typer.Exit(1)


def _engine(
    name: str,
    workers: int | None,
    threads: int | None,
    cluster: tuple[str | None, float, float],
) -> Local | OnRay:
    if name == "local":
        from ailora.experiments.engines.local import Local

        return Local(workers, threads)
    if name == "ray":
        from ailora.experiments.engines.ray import OnRay

        address, cpus, gpus = cluster
        return OnRay(address, cpus_per_run=cpus, gpus_per_run=gpus)
    raise UserError(f"--engine {name!r}: must be local or ray")


def _say_plan(
    file: Path, grids: Sequence[Grid], jobs: Sequence[Job], store: Store, retry: bool
) -> list[Job]:
    """Print the plan; the runs that are left to do."""
    from collections import Counter

    from ailora.cli.console import console
    from ailora.cli.words import plan_table

    state_of = {job.run_id: store.read(job.run_id).state for job in jobs}
    states = Counter[str](state_of.values())
    states["new"] = states.pop("unknown", 0)
    known = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    console.print(plan_table(str(file), grids, f"{len(jobs)} runs: {known}"))
    unreadable = {job.unreadable.reason: None for job in jobs if job.unreadable is not None}
    for reason in unreadable:
        console.print(f"warning: {reason}", highlight=False, markup=False, soft_wrap=True)
    ended = {"finished"} if retry else {"finished", "failed"}
    return [job for job in jobs if state_of[job.run_id] not in ended and job.unreadable is None]


def _weights(
    engine: Local | OnRay, todo: Sequence[Job], store: Store, dry_run: bool
) -> dict[str, float]:
    """Say how long the runs will take; the seconds of each by its name."""
    from ailora.cli.console import console
    from ailora.cli.words import duration
    from ailora.experiments.cost import kind, seconds
    from ailora.experiments.engines.local import Local

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


def _run(
    jobs: Sequence[Job],
    weights: dict[str, float],
    store: Store,
    engine: Local | OnRay,
    tasks: Tasks,
    retry: bool,
) -> Outcome:
    from ailora.cli.board import Board
    from ailora.cli.console import console
    from ailora.experiments import sweep as run_all

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


def _say_outcome(outcome: Outcome) -> None:
    from ailora.cli.board import standings_table
    from ailora.cli.console import console
    from ailora.cli.words import result_words, run_words
    from ailora.experiments.standings import varied

    names = varied([run["config"] for run in outcome.runs] + [f.config for f in outcome.failed])
    if outcome.runs:
        console.print(standings_table(outcome.runs, names, f"{len(outcome.runs)} finished runs"))
    for failed in outcome.failed:
        console.print(
            f"{run_words(failed.config, names)}  {result_words(failed)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
