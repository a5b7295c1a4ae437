"""``ailora train``: one adapter on one task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.lab.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.training.published import Published


@options.settings_as_options()
def train(
    settings: options.Given,
    preset: options.Preset = None,
    out: options.Out = Path("runs"),
    resume: Annotated[bool, typer.Option(help="Continue a run that was cut off.")] = False,
) -> None:
    """Train one adapter; leaves it with its scores in a folder below --out.

    Examples: `ailora train --limit 500` ·
    `ailora train --task reviews.csv --text body --label stars --method ailora --lr 1e-3` ·
    `ailora train --task cola --model FacebookAI/roberta-large --preset paper`
    """
    from ailora.cli.console import console, progress, quiet_libraries, say, show
    from ailora.lab.methods.variants import checked, in_words, variant_of
    from ailora.lab.tasks import load_task
    from ailora.lab.tasks.statement import LINES
    from ailora.lab.training import train as run
    from ailora.lab.training.folder import check_writable

    quiet_libraries()
    task, model = settings.get("task", "movies"), settings.get("model", "demo")
    published = options.published_for(preset, task, model)
    config = checked(options.run_config(settings, published))
    check_writable(out)
    _say_sources(published)
    with console.status("reading the data"):
        data = load_task(config.task, **config.task_options())
    for words in data.said(most=LINES):
        say(words)
    with progress() as bar:
        what_is_trained = f"{in_words(variant_of(vars(config)))} on {data.name}"
        line = bar.add_task(what_is_trained, total=None)

        def tell(step: int, steps: int, what: str) -> None:
            bar.update(line, description=f"{what_is_trained}: {what}", completed=step, total=steps)

        result = run(config, data, out, resume=resume, on_progress=tell)
    show(_table(result), whole=("", "test"), drop=("majority", "selection"))
    folder = out / config.run_id(data.name, data.fingerprint)
    console.print(f"adapter and scores: {folder}", soft_wrap=True, highlight=False)


def _say_sources(published: Published | None) -> None:
    """Print what to know about published settings: conflicts, and what nobody could check."""
    from ailora.cli.console import console

    if published is None:
        return
    for note in published.notes:
        console.print(f"note: {note}", style="dim", highlight=False)
    for name in sorted(published.unverified):
        console.print(f"{name}: {published.sources[name]}", style="dim", highlight=False)


def _table(result: dict[str, Any]) -> Table:
    from ailora.lab.cli.scores import score_table
    from ailora.lab.experiments.wording import metric_label
    from ailora.lab.report.comparison import metric_words

    data, scores = result["data"], dict(result["metrics"])
    if result["majority"] is not None:
        scores["majority"] = {data["metric"]: result["majority"]}
    scored = metric_words(data, scores["test"])
    scores = {
        split: {metric_label(data, name): value for name, value in own.items()}
        for split, own in scores.items()
    }
    title = f"{result['config']['method']} on {result['config']['task']}"
    table = score_table(title, scores, rows={**data, "majority": data["test"]})
    seconds, parameters = result["seconds"], result["parameters"]
    table.caption = (
        f"start {seconds['init']:.1f} s, training {seconds['train']:.0f} s; "
        f"{parameters['adapter']:,} + {parameters['head']:,} (head) trainable parameters; "
        f"step 0 differs from the base by {result['step0_deviation']:g}"
    )
    table.caption += f"; {scored}" if scored else ""
    return table
