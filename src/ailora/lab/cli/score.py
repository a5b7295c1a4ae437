"""``ailora score``: a finished run's adapter, or a base model, on a task's test rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ailora.lab.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.tasks import Task
    from ailora.lab.training import RunConfig
    from ailora.lab.training.kinds import Scored

_SCORING = (
    *("model", "task", "data", "max_length", "eval_limit", "micro_batch_size"),
    *("max_new_tokens", "num_beams", "max_source_tokens", "answer_batch_size", "tests"),
    *("n_best", "max_answer_length", "null_threshold"),
)


@options.settings_as_options(_SCORING, defaults={"task": "arithmetic"})
def score(
    settings: options.Given,
    run: Annotated[
        Path | None,
        typer.Argument(help="A run's folder. Default: the base model itself, as --model says."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the answers, one JSON object per line.")
    ] = None,
) -> None:
    """Score a run's saved adapter again, or a base model before any tuning.

    Settings of a run that are not given here are those it was trained with.

    Examples: `ailora score runs/ailora-cola-1a2b3c4d5e` ·
    `ailora score --model demo --task arithmetic --data DIR --eval-limit 100`
    """
    import json

    from ailora.cli.console import progress, quiet_libraries, show
    from ailora.files import write_atomic
    from ailora.lab.tasks import load_task
    from ailora.lab.training.scoring import score as score_rows

    quiet_libraries()
    config = _settings(run, settings)
    rows = load_task(config.task, **config.task_options())
    with progress() as bar:
        line = bar.add_task(f"{config.model} on {rows.name}", total=None)
        found = score_rows(
            config,
            rows,
            run / "adapter" if run else None,
            on_progress=lambda done, of, what: bar.update(line, completed=done, total=of),
        )
    made = _table(found, run or config.model, rows)
    show(made, whole=[str(column.header) for column in made.columns])
    if out is not None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found.outputs)
        write_atomic(out, "".join(lines))


def _settings(run: Path | None, given: options.Given) -> RunConfig:
    from dataclasses import replace

    from ailora.lab.training.scoring import settings_in

    if run is None:
        return options.run_config({"task": "arithmetic", **given})
    return replace(settings_in(run), **given)


def _table(found: Scored, what: Path | str, task: Task) -> Table:
    from ailora.lab.cli.scores import score_table
    from ailora.lab.experiments.wording import counted, metric_label

    data = {name: getattr(task, name, None) for name in ("labels", "positive")}
    scores = {"test": {metric_label(data, name): value for name, value in found.metrics.items()}}
    if found.by_group:  # there may be many groups, so they are the lines
        groups = {**found.by_group, "mean": found.metrics}
        scores = {
            metric_label(data, metric): {group: own[metric] for group, own in groups.items()}
            for metric in found.metrics
        }
    table = score_table(f"{what} on {task.name}", scores)
    table.caption = counted(len(found.outputs), "test row")
    return table
