"""``ailora compare``: methods side by side on one task, which is a small sweep and its report."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ailora.lab.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailora.lab.experiments import Grid, Outcome
    from ailora.lab.experiments.store import Stored
    from ailora.lab.training.published import Published

DEMO_ROWS = 640  # rows of the embedded task: ten runs take about two minutes on two cores
DEMO_EVAL_ROWS = 400
CURVE = {"evaluations": 4, "monitor_rows": 100}  # what the curves of the report need


@options.settings_as_options(
    leave_out=("method", "seed", "lr"),
    defaults=CURVE,
    others={"method": "methods", "seed": "seeds"},
)
def compare(
    settings: options.Given,
    preset: options.Preset = None,
    methods: Annotated[
        str,
        typer.Option(help="Methods, with commas between; lora:lr_ratio=2 is one too."),
    ] = "lora,pissa,milora,ailora,reailora",
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Each method is trained once per seed. Default: 0,1; of --protocol fair, whose "
            "scores are reported, 2,3,4,5,6.",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(
            help="One rate for all, or several with commas: then each method gets its own best, "
            "chosen on rows that the reported scores do not use. Default: 2e-3.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="here: one after another; local: several at a time; ray: a cluster."),
    ] = "here",
    protocol: options.Protocol = None,
    choose_seeds: options.ChooseSeeds = None,
    halving: options.Halving = False,
    budget: options.Budget = None,
    plan_only: options.PlanOnly = False,
    out: options.Out = Path("comparison"),
) -> None:
    """Train several methods alike and show what differs: a table, plots and report.html.

    All share the order of the rows, the head's start and the budget; only the factors' start and
    the roles' rates differ. Runs that are finished in --out are not run again. Of 'movies', 640
    rows are trained on and 400 scored, unless --limit and --eval-limit say otherwise. `ailora data`
    takes a look at a file first.

    With --protocol fair each method's rate is searched on a grid that widens by itself and
    scored on other seeds; the page says what to use, at which rate, and how sure that is.

    Examples: `ailora compare` · `ailora compare --lr 1e-3,2e-3,4e-3,8e-3 --seeds 0,1,2,3,4` ·
    `ailora compare --protocol fair --budget 2h` ·
    `ailora compare --task reviews.csv --text body --label stars`
    """
    task, model = settings.get("task", "movies"), settings.get("model", "demo")
    published = options.published_for(preset, task, model)
    if task.startswith("movies"):
        settings = {"limit": DEMO_ROWS, "eval_limit": DEMO_EVAL_ROWS, **settings}
    rates = options.numbers("--lr", lr, float) if lr else None
    given = tuple(map(int, options.numbers("--seeds", seeds, int))) if seeds else None
    fair = options.fair_options(protocol, choose_seeds, halving, budget, plan_only)
    if fair is not None:
        names = options.names("--methods", methods)
        _fair({**CURVE, **settings}, published, names, rates, given, fair, engine, out)
        return
    grid = _grid(
        {**CURVE, **settings},
        published,
        methods=options.names("--methods", methods),
        seeds=given or (0, 1),
        rates=rates or (published.rates if published else None),
    )
    _compare(grid, engine, out)


def _grid(
    settings: options.Given,
    published: Published | None,
    *,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    rates: tuple[float, ...] | None,
) -> Grid:
    from dataclasses import replace

    from ailora.lab.experiments import Grid

    common = options.run_config(settings, published)
    rates = rates or (common.lr,)
    # Seeds outermost: whoever stops half-way has all methods at half of the seeds.
    axes = {"seed": seeds, "lr": rates, "method": methods}
    return Grid(common=replace(common, lr=rates[0]), axes=axes)


def _fair(
    settings: options.Given,
    published: Published | None,
    methods: tuple[str, ...],
    rates: tuple[float, ...] | None,
    seeds: tuple[int, ...] | None,
    fair: options.Fair,
    engine: str,
    out: Path,
) -> None:
    from dataclasses import replace

    from ailora.errors import UserError
    from ailora.lab.cli.compare_fairly import compare_fairly
    from ailora.lab.cli.sweeps import say_merged
    from ailora.lab.experiments import Grid
    from ailora.lab.experiments.grid import distinct

    if rates and len(rates) > 1:
        raise UserError(
            "--protocol fair chooses the rates itself: give --lr one, to begin around, or none"
        )
    common = options.run_config(settings, published)
    grid = Grid(common=replace(common, lr=rates[0]) if rates else common, axes={"method": methods})
    say_merged([grid])
    if compare_fairly(distinct([grid]), seeds, fair, engine, out, store=out / "runs"):
        raise typer.Exit(1)


def _compare(grid: Grid, engine_name: str, out: Path) -> None:
    from ailora.cli.console import console, quiet_libraries
    from ailora.lab.cli import sweeps
    from ailora.lab.experiments import Store
    from ailora.lab.experiments.engines.here import Here
    from ailora.lab.experiments.grid import distinct
    from ailora.lab.experiments.jobs import Tasks, jobs_of
    from ailora.lab.training.folder import check_writable

    quiet_libraries()
    check_writable(out)
    tasks, store, began = Tasks(), Store(out / "runs"), time.monotonic()
    with console.status("reading the data"):
        tasks.of(grid.common)  # bad data is refused before anything is written
    engine = Here(tasks, strict=True) if engine_name == "here" else sweeps.engine_named(engine_name)
    sweeps.say_merged([grid])
    runs = distinct([grid])
    outcome = sweeps.do_runs(runs, store, engine, tasks=tasks, retry=True)
    jobs = jobs_of(runs, tasks, store)
    stored = [store.read(job.run_id) for job in jobs]
    _report(outcome, stored, time.monotonic() - began, out)
    if outcome.failed:
        raise typer.Exit(1)


def _report(outcome: Outcome, stored: Sequence[Stored], seconds: float, out: Path) -> None:
    from ailora.cli.console import console, show
    from ailora.errors import UserError
    from ailora.lab.report.page import write_comparison
    from ailora.lab.report.store_report import store_report
    from ailora.lab.report.summary import SUMMARY_DROP, summary_header, summary_table

    if not outcome.runs:
        raise UserError(f"every run failed; the first: {outcome.failed[0].reason}")
    console.print()
    report, command = store_report(stored), shlex.join(["ailora", *sys.argv[1:]])
    with console.status("drawing the report"):
        page = write_comparison(report, out, command=command, seconds=seconds)
    for part in report.parts:
        whole = summary_header(part.comparison)[:2]
        show(summary_table(part.comparison), whole=whole, drop=SUMMARY_DROP)
    console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False)
