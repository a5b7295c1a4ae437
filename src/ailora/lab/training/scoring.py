"""Scores of a finished run's adapter, or of the base model, on the task's test rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ailora.errors import MALFORMED, UserError
from ailora.files import parse_json, read_text
from ailora.lab import methods
from ailora.lab.settings import RunConfig
from ailora.lab.tasks import Task
from ailora.lab.training.kinds import Scored, kind_of
from ailora.lab.training.model import check_length
from ailora.lab.training.monitoring import OnProgress
from ailora.lab.training.trainer import build_evaluator


def settings_in(folder: Path) -> RunConfig:
    """The settings that a run's folder was made with.

    Raises:
        UserError: No run's folder, settings that this version does not know, or a task that is a
            Python file: no folder decides which code is run.
    """
    path = folder / "config.json"
    try:
        made_of = dict(parse_json(read_text(path))["config"])
    except (OSError, *MALFORMED) as error:
        raise UserError(f"{folder}: no run's folder ({path.name} cannot be read)") from error
    try:
        config = RunConfig.from_json(made_of)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if config.task.endswith(".py"):
        raise UserError(
            f"{path}: its task is the Python file {config.task!r}, which is not run just "
            "because a folder names it; give it with --task"
        )
    return config


def score(
    config: RunConfig,
    task: Task,
    adapter: Path | None,
    *,
    on_progress: OnProgress = lambda step, steps, what: None,
) -> Scored:
    """Score a saved adapter, or the base model itself, on the task's test rows.

    Args:
        config: The settings of the run.
        task: The data of the run.
        adapter: Folder that `ailora.lab.methods.save` wrote; None for the base model.
        on_progress: Called with (done, of, what).

    Raises:
        UserError: No such adapter or model; or the base model where its head is new, so that its
            scores would mean nothing.
    """
    kind = kind_of(task, config)
    if adapter is None and kind.new_head:
        raise UserError(
            f"task {task.name!r} puts a new head on the model, which knows nothing before it is "
            "trained; give a run to score"
        )
    model, tokenizer = kind.load()
    check_length(kind.max_length, model.config, tokenizer)
    if adapter is not None:
        model = methods.load(model, adapter)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = build_evaluator(kind, Path(scratch), model, tokenizer, on_progress=on_progress)
        return kind.final(
            trainer, task.test, on_progress=lambda done, of: on_progress(done, of, "answering")
        )
