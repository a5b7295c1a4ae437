"""``ailora compare``: methods side by side on one task."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.lab.cli import options
from ailora.lab.cli.settings import given_on, published_for, run_config

if TYPE_CHECKING:
    from ailora.lab.experiments import Grid, Outcome
    from ailora.lab.experiments.events import Ended
    from ailora.lab.experiments.jobs import Tasks
    from ailora.lab.report.comparison import Comparison
    from ailora.lab.report.pages.compare import Call
    from ailora.lab.training.published import Published

DEMO_ROWS = 640  # of the embedded task: ten runs in about four minutes on two cores
DEMO_EVAL_ROWS = 400
_NO_SETTINGS = ("preset", "methods", "seeds", "lr", "out")


def compare(
    context: typer.Context,
    model: options.Model = "demo",
    task: options.Task = "movies",
    data: options.Data = None,
    preset: options.Preset = None,
    methods: Annotated[
        str, typer.Option(help="Names with commas between.")
    ] = "lora,pissa,milora,ailora,reailora",
    seeds: Annotated[str, typer.Option(help="Each method is trained once with each.")] = "0,1",
    lr: Annotated[
        str,
        typer.Option(
            help="One rate for all, or several with commas: then each method gets its own best, "
            "chosen on rows that the reported scores do not use."
        ),
    ] = "2e-3",
    rank: options.Rank = 8,
    alpha: options.Alpha = None,
    epochs: options.Epochs = 2,
    batch_size: options.BatchSize = 16,
    micro_batch_size: options.MicroBatchSize = None,
    max_length: options.MaxLength = None,
    limit: Annotated[
        int | None,
        typer.Option(help=f"Most rows to train on. Default: {DEMO_ROWS} of 'movies', else all."),
    ] = None,
    eval_limit: Annotated[
        int | None,
        typer.Option(
            help=f"Most rows to select by, and to test on. Default: {DEMO_EVAL_ROWS} of 'movies', "
            "else all."
        ),
    ] = None,
    ranks: options.Ranks = None,
    bottleneck: options.Bottleneck = 64,
    vera_rank: options.VeraRank = 256,
    loss_on: options.LossOn = None,
    max_new_tokens: options.MaxNewTokens = None,
    num_beams: options.NumBeams = None,
    max_source_tokens: options.MaxSourceTokens = None,
    train_file: options.TrainFile = None,
    tests: options.Tests = None,
    doc_stride: options.DocStride = None,
    null_threshold: options.NullThreshold = None,
    text: options.Text = None,
    label: options.Label = "label",
    dev: options.Dev = None,
    test: options.Test = None,
    regression: options.Regression = None,
    metrics: options.Metrics = None,
    on_broken: options.OnBroken = None,
    out: options.Out = Path("comparison"),
) -> None:
    """Train several methods alike and show what differs: a table, plots and report.html.

    All share the order of the rows, the head's start and the budget; only the factors' start and
    the roles' rates differ. Runs that are finished in --out are not run again.

    Examples: `ailora compare` · `ailora compare --lr 1e-3,2e-3,4e-3,8e-3 --seeds 0,1,2,3,4` ·
    `ailora compare --task reviews.csv --text body --label stars`
    """
    shared = {name: value for name, value in context.params.items() if name not in _NO_SETTINGS}
    if task.startswith("movies"):
        shared["limit"] = DEMO_ROWS if limit is None else limit
        shared["eval_limit"] = DEMO_EVAL_ROWS if eval_limit is None else eval_limit
    published, given = published_for(preset, task, model), given_on(context)
    rates = options.numbers("--lr", lr, float)
    plan = {
        "methods": options.names("--methods", methods),
        "seeds": options.numbers("--seeds", seeds, int),
        "rates": published.rates if published and "lr" not in given else rates,
    }
    _compare(plan, shared, given, published, out)


def _compare(
    plan: dict[str, Any],
    shared: dict[str, Any],
    given: frozenset[str],
    published: Published | None,
    out: Path,
) -> None:
    from dataclasses import replace

    from ailora.cli.console import console, quiet_libraries
    from ailora.lab.experiments import Grid
    from ailora.lab.experiments.jobs import Tasks
    from ailora.lab.report.pages.compare import Call
    from ailora.lab.training.folder import check_writable

    quiet_libraries()
    settings = run_config(shared, given, published)
    common = replace(settings, lr=plan["rates"][0], evaluations=4, monitor_rows=100)
    # Seeds outermost: what is done when someone stops it is a fair half.
    axes = {"seed": plan["seeds"], "lr": plan["rates"], "method": plan["methods"]}
    grid, tasks = Grid(common=common, axes=axes), Tasks()
    check_writable(out)
    notes = tasks.of(common).notes
    began = time.monotonic()
    outcome = _run(grid, tasks, out)
    console.print()
    comparison = _comparison(grid, outcome)
    call = Call(shlex.join(["ailora", *sys.argv[1:]]), time.monotonic() - began, notes)
    _report(comparison, call, out)
    if outcome.failed:
        raise typer.Exit(1)


def _run(grid: Grid, tasks: Tasks, out: Path) -> Outcome:
    from ailora.cli.console import console, progress
    from ailora.lab.experiments import Store, sweep
    from ailora.lab.experiments.engines.here import Here
    from ailora.lab.experiments.events import Ended, Event, Step

    runs = list(grid.runs())
    with progress() as bar:
        line = bar.add_task("starting", total=len(runs))

        def tell(event: Event) -> None:
            if isinstance(event, Ended):
                console.print(_one_line(event), highlight=False, markup=False, soft_wrap=True)
                bar.update(line, completed=runs.index(event.job.config) + 1)
            elif isinstance(event, Step) and event.what == "training":
                done, config = runs.index(event.job.config), event.job.config
                bar.update(
                    line,
                    description=f"run {done + 1} of {len(runs)}: {config.method}, "
                    f"lr {config.lr:g}, seed {config.seed}",
                    completed=done + event.step / event.steps,
                )

        engine = Here(tasks, strict=True)
        outcome = sweep(runs, Store(out / "runs"), engine, tasks=tasks, retry=True, on_event=tell)
        bar.update(line, description="done", completed=len(runs))
    return outcome


def _one_line(event: Ended) -> str:
    """A run by method, rate and seed, and its score or why it has none."""
    from ailora.lab.experiments.failure import Failure

    config, result = event.job.config, event.result
    who = f"{config.method:<9} lr {config.lr:<7g} seed {config.seed}"
    if isinstance(result, Failure):
        return f"{who}  failed: {result.reason}"
    metric = result["data"]["metric"]
    return f"{who}  test {metric} {result['metrics']['test'][metric]:.4f}"


def _report(comparison: Comparison, call: Call, out: Path) -> None:
    from ailora.cli.console import console
    from ailora.lab.report.pages.compare import write_report
    from ailora.lab.report.tables import summary_table

    with console.status("drawing the report"):
        page = write_report(comparison, call, out)
    console.print(summary_table(comparison))
    console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False)


def _comparison(grid: Grid, outcome: Outcome) -> Comparison:
    from ailora.errors import UserError
    from ailora.lab.report.comparison import Comparison

    if not outcome.runs:
        raise UserError(f"every run failed; the first: {outcome.failed[0].reason}")
    rates = tuple(grid.axes["lr"])
    several = len(rates) > 1
    return Comparison(
        runs=outcome.reported,
        failed=[{"config": failed.config, "error": failed.reason} for failed in outcome.failed],
        searched=outcome.runs if several else (),
        chosen="selected" if several else "fixed",
        rates=rates,
    )
