"""``ailora train``: one adapter on one task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.lab.cli import options
from ailora.lab.cli.settings import given_on, published_for, run_config

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.training.published import Published

_NO_SETTINGS = ("preset", "out", "resume")


def train(
    context: typer.Context,
    method: Annotated[
        str, typer.Option(help="ailora, lora, full, houlsby, ...: 'ailora params' lists them.")
    ] = "ailora",
    model: options.Model = "demo",
    task: options.Task = "movies",
    data: options.Data = None,
    preset: options.Preset = None,
    rank: options.Rank = 8,
    alpha: options.Alpha = None,
    lr: Annotated[float, typer.Option(help="Learning rate; AILoRA's v has twice this.")] = 2e-3,
    epochs: options.Epochs = 2,
    batch_size: options.BatchSize = 16,
    micro_batch_size: options.MicroBatchSize = None,
    warmup_ratio: Annotated[float, typer.Option(help="Share of the steps to warm up.")] = 0.06,
    weight_decay: Annotated[float, typer.Option(help="Decoupled, as in AdamW.")] = 0.0,
    dropout: Annotated[float, typer.Option(help="On the adapter's input.")] = 0.0,
    base: Annotated[str, typer.Option(help="anchored (base untouched) or folded (W - BA).")] = (
        "anchored"
    ),
    lr_mode: Annotated[str, typer.Option(help="groups, or baked into the factors.")] = "groups",
    max_length: options.MaxLength = None,
    limit: options.Limit = None,
    eval_limit: options.EvalLimit = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after this many evaluations without a better score.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of head, order and dropout.")] = 0,
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
    out: options.Out = Path("runs"),
    resume: Annotated[bool, typer.Option(help="Continue a run that was cut off.")] = False,
) -> None:
    """Train one adapter; leaves it with its scores in a folder below --out.

    Examples: `ailora train --limit 500` ·
    `ailora train --task reviews.csv --text body --label stars --method ailora --lr 1e-3` ·
    `ailora train --task cola --model FacebookAI/roberta-large --preset paper`
    """
    settings = {name: value for name, value in context.params.items() if name not in _NO_SETTINGS}
    _train(settings, given_on(context), preset, out, resume)


def _train(
    values: dict[str, Any], given: frozenset[str], preset: str | None, out: Path, resume: bool
) -> None:
    from ailora.cli.console import console, progress, quiet_libraries
    from ailora.lab.tasks import load_task
    from ailora.lab.training import train as run
    from ailora.lab.training.folder import check_writable
    from ailora.lab.training.methods import check_method

    quiet_libraries()
    check_method(values["method"])
    published = published_for(preset, values["task"], values["model"])
    config = run_config(values, given, published)
    check_writable(out)
    _say_sources(published)
    data = load_task(config.task, **config.task_options())
    with progress() as bar:
        line = bar.add_task(f"{config.method} on {data.name}", total=None)
        result = run(
            config,
            data,
            out,
            resume=resume,
            on_progress=lambda step, steps, what: bar.update(
                line,
                description=f"{config.method} on {data.name}: {what}",
                completed=step,
                total=steps,
            ),
        )
    console.print(_table(result))
    folder = out / config.run_id(data.name, data.fingerprint)
    console.print(f"adapter and scores: {folder}", soft_wrap=True, highlight=False)


def _say_sources(published: Published | None) -> None:
    """What is to be known of published settings: conflicts, and what nobody could check."""
    from ailora.cli.console import console

    if published is None:
        return
    for note in published.notes:
        console.print(f"note: {note}", style="dim", highlight=False)
    for name in sorted(published.unverified):
        console.print(f"{name}: {published.sources[name]}", style="dim", highlight=False)


def _table(result: dict[str, Any]) -> Table:
    from ailora.lab.cli.scores import score_table

    data, scores = result["data"], dict(result["metrics"])
    if result["majority"] is not None:
        scores["majority"] = {data["metric"]: result["majority"]}
    title = f"{result['config']['method']} on {result['config']['task']}"
    table = score_table(title, scores, rows={**data, "majority": data["test"]})
    seconds, parameters = result["seconds"], result["parameters"]
    table.caption = (
        f"start {seconds['init']:.1f} s, training {seconds['train']:.0f} s; "
        f"{parameters['adapter']:,} + {parameters['head']:,} (head) trainable parameters; "
        f"step 0 differs from the base by {result['step0_deviation']:g}"
    )
    return table
