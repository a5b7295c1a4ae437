"""``ailora compare``: methods side by side on one task."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.cli import options
from ailora.cli.settings import given_on, published_for, run_config

if TYPE_CHECKING:
    from ailora.experiments import CompareConfig, Outcome
    from ailora.report.comparison import Comparison
    from ailora.tasks import Task
    from ailora.training.published import Published

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
    from ailora.experiments import CompareConfig
    from ailora.tasks import load_task
    from ailora.training.folder import check_writable

    quiet_libraries()
    settings = run_config(shared, given, published)
    common = replace(settings, lr=plan["rates"][0], evaluations=4, monitor_rows=100)
    config = CompareConfig(**plan, common=common)
    check_writable(out)
    task = load_task(common.task, **common.task_options())
    began = time.monotonic()
    outcome = _run(config, task, out)
    console.print()
    _report(config, task, outcome, time.monotonic() - began, out)
    if outcome.failed:
        raise typer.Exit(1)


def _run(config: CompareConfig, task: Task, out: Path) -> Outcome:
    from ailora.cli.console import console, progress
    from ailora.experiments import compare as run_all

    with progress() as bar:
        line = bar.add_task("starting", total=1.0)

        def show(run: int, runs: int, config: Any, step: int, steps: int) -> None:
            words = (
                f"run {run + 1} of {runs}: {config.method}, lr {config.lr:g}, seed {config.seed}"
            )
            bar.update(line, description=words, completed=(run + step / steps) / runs)

        def say(run: dict[str, Any]) -> None:
            console.print(_one_line(run), highlight=False, soft_wrap=True)

        outcome = run_all(config, task, out / "runs", on_progress=show, on_finish=say)
        bar.update(line, description="done", completed=1.0)
    return outcome


def _one_line(run: dict[str, Any]) -> str:
    config = run["config"]
    who = f"{config['method']:<9} lr {config['lr']:<7g} seed {config['seed']}"
    if "error" in run:
        return f"{who}  failed: {run['error']}"
    metric = run["data"]["metric"]
    return f"{who}  test {metric} {run['metrics']['test'][metric]:.4f}"


def _report(config: CompareConfig, task: Task, outcome: Outcome, seconds: float, out: Path) -> None:
    from ailora.cli.console import console
    from ailora.errors import UserError
    from ailora.report.html import write_report
    from ailora.report.tables import summary_table

    if not outcome.runs:
        raise UserError(f"every run failed; the first: {outcome.failed[0]['error']}")
    comparison = _comparison(config, task, outcome, seconds)
    with console.status("drawing the report"):
        page = write_report(comparison, out)
    console.print(summary_table(comparison))
    console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False)


def _comparison(config: CompareConfig, task: Task, outcome: Outcome, seconds: float) -> Comparison:
    from ailora.report.comparison import Comparison

    several = len(config.rates) > 1
    return Comparison(
        runs=outcome.reported,
        failed=outcome.failed,
        searched=outcome.runs if several else (),
        command=shlex.join(["ailora", *sys.argv[1:]]),
        chosen="selected" if several else "fixed",
        rates=tuple(config.rates),
        seconds=seconds,
        notes=task.notes,
    )
