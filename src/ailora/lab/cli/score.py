"""``ailora score``: a finished run's adapter, or a base model, on a task's test rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ailora.lab.cli import options
from ailora.lab.cli.settings import GENERATION, given_on, run_config

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.training import RunConfig
    from ailora.lab.training.kinds import Scored

_NO_SETTINGS = ("run", "out")


def score(
    context: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(help="A run's folder. Default: the base model itself, as --model says."),
    ] = None,
    model: options.Model = "demo",
    task: options.Task = "arithmetic",
    data: options.Data = None,
    max_length: options.MaxLength = None,
    eval_limit: options.EvalLimit = None,
    max_new_tokens: options.MaxNewTokens = None,
    num_beams: options.NumBeams = None,
    max_source_tokens: options.MaxSourceTokens = None,
    tests: options.Tests = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the answers, a JSON object a line.")
    ] = None,
) -> None:
    """Score a run's saved adapter again, or a base model before any tuning.

    Of a run, all that is not given here is as it was trained with.

    Examples: `ailora score runs/ailora-cola-1a2b3c4d5e` ·
    `ailora score --model demo --task arithmetic --data DIR --eval-limit 100`
    """
    settings = {name: value for name, value in context.params.items() if name not in _NO_SETTINGS}
    _score(run, settings, given_on(context) & settings.keys(), out)


def _score(
    run: Path | None, settings: dict[str, Any], given: frozenset[str], out: Path | None
) -> None:
    import json

    from ailora.cli.console import console, progress, quiet_libraries
    from ailora.files import write_atomic
    from ailora.lab.tasks import load_task
    from ailora.lab.training.score import score as score_rows

    quiet_libraries()
    config = _settings(run, settings, given)
    rows = load_task(config.task, **config.task_options())
    with progress() as bar:
        line = bar.add_task(f"{config.model} on {rows.name}", total=None)
        found = score_rows(
            config,
            rows,
            run / "adapter" if run else None,
            on_progress=lambda done, of, what: bar.update(line, completed=done, total=of),
        )
    console.print(_table(found, run or config.model, rows.name))
    if out is not None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found.outputs)
        write_atomic(out, "".join(lines))


def _settings(run: Path | None, settings: dict[str, Any], given: frozenset[str]) -> RunConfig:
    from dataclasses import asdict

    from ailora.lab.training import RunConfig
    from ailora.lab.training.score import settings_in

    if run is None:
        return run_config(settings, given, None)
    made_with = asdict(settings_in(run))
    settings = {**settings, "tests": options.optional_names("--tests", settings["tests"])}
    generation = {name: settings[name] for name in GENERATION if name in given}
    made_with["generation"] |= generation
    made_with |= {name: settings[name] for name in given - generation.keys()}
    return RunConfig.from_json(made_with)


def _table(found: Scored, what: Path | str, task: str) -> Table:
    from ailora.lab.cli.scores import score_table

    scores = {"test": found.metrics}
    if found.by_group:  # of groups there may be many, so they are the lines
        groups = {**found.by_group, "mean": found.metrics}
        scores = {
            metric: {group: own[metric] for group, own in groups.items()}
            for metric in found.metrics
        }
    table = score_table(f"{what} on {task}", scores)
    table.caption = f"{len(found.outputs)} test rows"
    return table
