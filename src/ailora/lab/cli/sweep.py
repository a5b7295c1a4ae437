"""``ailora sweep``: many runs from one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.errors import UserError
from ailora.lab.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailora.lab.experiments import Grid, Outcome, Store
    from ailora.lab.experiments.engines.local import Local
    from ailora.lab.experiments.engines.ray import OnRay


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML with [common] and [grid], or Python.")
    ],
    search: Annotated[
        int | None,
        typer.Option(
            metavar="TRIALS",
            min=1,
            help="Search the ranges in [search.space] with Optuna, so many points for each "
            "setting of [grid], instead of a grid of them.",
        ),
    ] = None,
    out: options.Out = Path("sweep"),
    dry_run: Annotated[
        bool, typer.Option(help="Print what would run and for how long, and write nothing.")
    ] = False,
    estimate: options.Estimate = True,
    retry_failed: options.RetryFailed = False,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    threads: options.Threads = None,
    address: options.Address = None,
    cpus_per_run: options.CpusPerRun = 1,
    gpus_per_run: options.GpusPerRun = 0,
    protocol: options.Protocol = None,
    choose_seeds: options.ChooseSeeds = None,
    halving: options.Halving = False,
    budget: options.Budget = None,
    plan_only: options.PlanOnly = False,
) -> None:
    """Do every run of a sweep file that is not done yet, several at a time.

    A file is `[common]` with settings that all runs share (named as in `ailora train --help`, with
    _ for -) and `[grid]` with lists of values to combine:

        [common]
        task = "movies"
        limit = 640
        [grid]
        method = ["lora", "ailora"]
        lr = [1e-3, 2e-3]
        seed = [0, 1, 2]

    Stop it and call it again: finished runs are kept, interrupted ones go on to the same end.
    With --protocol fair the file has no list of rates: each setting's is searched around [common]'s
    lr, and the file's seeds are those reported on; the page is report.html in --out.

    With `--search 20` the points are Optuna's, out of ranges that the file names:

        [search.space]
        lr = { low = 1e-4, high = 1e-1, log = true }
        rank = [4, 8, 16]

    Examples: `ailora sweep sweep.toml --dry-run` · `ailora sweep sweep.toml --out results` ·
    `ailora sweep sweep.toml --search 20` ·
    `ailora sweep sweep.toml --engine ray --address auto --gpus-per-run 1`
    """
    from ailora.cli.console import quiet_libraries
    from ailora.lab.cli import sweeps
    from ailora.lab.experiments import Store
    from ailora.lab.experiments.sweep_file import read_search_table, read_sweep_file

    quiet_libraries()
    chosen = sweeps.engine_named(engine, workers, threads, address, cpus_per_run, gpus_per_run)
    grids, store = read_sweep_file(file), Store(out)
    fair = options.fair_options(protocol, choose_seeds, halving, budget, plan_only)
    ranges = read_search_table(file)
    sweeps.say_merged(grids)
    if fair is None and search is None and ranges is None:
        done = _every_run(
            file, grids, store, chosen, dry_run=dry_run, estimate=estimate, retry=retry_failed
        )
    elif fair is None:
        done = _search(file, ranges, search, grids, store, chosen, dry_run=dry_run)
    elif search is None and ranges is None:
        done = _fair(grids, replace(fair, plan_only=fair.plan_only or dry_run), chosen, out)
    else:
        raise UserError(
            f"--protocol fair searches the rates itself: leave out --search, and [search] of {file}"
        )
    if not done:
        raise typer.Exit(1)


def _every_run(
    file: Path,
    grids: Sequence[Grid],
    store: Store,
    engine: Local | OnRay,
    *,
    dry_run: bool,
    estimate: bool,
    retry: bool,
) -> bool:
    """Do every run of the grids; whether none failed."""
    from ailora.cli.console import show
    from ailora.lab.cli import sweeps
    from ailora.lab.cli.words import plan_table
    from ailora.lab.experiments.grid import distinct
    from ailora.lab.experiments.jobs import Tasks
    from ailora.lab.experiments.wording import counted
    from ailora.lab.training.folder import check_writable

    runs = distinct(grids)
    check_writable(store.path)
    show(plan_table(str(file), grids, counted(len(runs), "run")), whole=("runs",))
    if dry_run:
        _, todo, _ = sweeps.look(runs, store, Tasks(), retry=retry)
        if estimate:
            sweeps.estimated(engine, todo, store, dry_run=True)
        return True
    outcome = sweeps.do_runs(runs, store, engine, estimate=estimate, retry=retry)
    _say_outcome(outcome)
    return not outcome.failed


def _fair(grids: Sequence[Grid], fair: options.Fair, engine: Local | OnRay, out: Path) -> bool:
    """Compare the settings of the grids by the fair protocol; whether all could be reported."""
    from ailora.lab.cli.compare_fairly import compare_fairly, settings_and_seeds

    settings, seeds = settings_and_seeds(grids)
    return not compare_fairly(settings, seeds, fair, engine, out, store=out)


def _search(
    file: Path,
    ranges: Any,
    trials: int | None,
    grids: Sequence[Grid],
    store: Store,
    engine: Local | OnRay,
    *,
    dry_run: bool,
) -> bool:
    """Search the ranges for each setting of the grids; whether each has a best point."""
    from ailora.cli.console import console
    from ailora.lab.cli.searching import found_shown, plan_words, searched
    from ailora.lab.experiments.grid import distinct
    from ailora.lab.training.folder import check_writable

    check_writable(store.path)
    if ranges is None:
        raise UserError(f"{file}: --search needs ranges: a table [search.space] (see --help)")
    if trials is None:
        raise UserError(f"{file} has [search]: say how many points to try, such as --search 20")
    from ailora.lab.experiments.search import Search

    search, runs = Search.of(ranges), distinct(grids)
    console.print(plan_words(runs, search, trials), highlight=False)
    if dry_run:
        return True
    found = searched(runs, search, trials, store, engine)
    console.print(found_shown(found, search), crop=False)
    return all(one.best is not None for one in found)


def _say_outcome(outcome: Outcome) -> None:
    from ailora.cli.console import console
    from ailora.lab.cli.sweeps import say_failed, standings_shown
    from ailora.lab.experiments.best_rates import varied
    from ailora.lab.experiments.wording import counted

    names = varied([run["config"] for run in outcome.runs] + [f.config for f in outcome.failed])
    if outcome.runs:
        title = counted(len(outcome.runs), "finished run")
        console.print(standings_shown(outcome.runs, names, title), crop=False)
    say_failed(outcome, names)
