"""``ailora sweep``: many runs from one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ailora.lab.cli import options

if TYPE_CHECKING:
    from ailora.lab.experiments import Outcome


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML with [common] and [grid], or Python.")
    ],
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

    Examples: `ailora sweep sweep.toml --dry-run` · `ailora sweep sweep.toml --out results` ·
    `ailora sweep sweep.toml --engine ray --address auto --gpus-per-run 1`
    """
    from ailora.cli.console import quiet_libraries, show
    from ailora.lab.cli import sweeps
    from ailora.lab.cli.words import plan_table
    from ailora.lab.experiments import Store
    from ailora.lab.experiments.grid import distinct
    from ailora.lab.experiments.jobs import Tasks
    from ailora.lab.experiments.sweep_file import read_sweep_file
    from ailora.lab.experiments.wording import counted
    from ailora.lab.training.folder import check_writable

    quiet_libraries()
    chosen = sweeps.engine_named(engine, workers, threads, address, cpus_per_run, gpus_per_run)
    grids, store = read_sweep_file(file), Store(out)
    fair = options.fair_options(protocol, choose_seeds, halving, budget, plan_only)
    if fair is not None:
        from ailora.lab.cli.fair import compare_fairly, settings_and_seeds

        settings, seeds = settings_and_seeds(grids)
        if dry_run:
            fair = replace(fair, plan_only=True)
        if compare_fairly(settings, seeds, fair, chosen, out, store=out):
            raise typer.Exit(1)
        return
    runs = distinct(grids)
    check_writable(out)
    show(plan_table(str(file), grids, counted(len(runs), "run")), whole=("runs",))
    if dry_run:
        _, todo, _ = sweeps.look(runs, store, Tasks(), retry=retry_failed)
        if estimate:
            sweeps.estimated(chosen, todo, store, dry_run=True)
        return
    outcome = sweeps.do_runs(runs, store, chosen, estimate=estimate, retry=retry_failed)
    _say_outcome(outcome)
    if outcome.failed:
        raise typer.Exit(1)


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
