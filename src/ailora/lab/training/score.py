"""Scores of a finished run's adapter, or of the base model, on the task's test rows."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from ailora.errors import UserError
from ailora.lab import methods
from ailora.lab.tasks import GenerationTask, Task
from ailora.lab.training.callbacks import OnProgress, Progress
from ailora.lab.training.config import RunConfig
from ailora.lab.training.kinds import Kind, Scored, kind_of
from ailora.lab.training.model import check_length


def settings_in(folder: Path) -> RunConfig:
    """The settings a run's folder was made with.

    Raises:
        UserError: No run's folder, settings of another version, or a task that is a Python file:
            what a folder says is not to run code.
    """
    path = folder / "config.json"
    try:
        made_of = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no run's folder ({path.name} cannot be read)") from error
    config = RunConfig.from_json(made_of)
    if config.task.endswith(".py"):
        raise UserError(
            f"{path}: its task is the Python file {config.task!r}, which is not run at a folder's "
            "word; give it with --task"
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
        config: The settings of the run: model, lengths, generation.
        task: Its data.
        adapter: Folder that `ailora.lab.methods.save` wrote; None for the base model.
        on_progress: Called with (done, of, what).

    Raises:
        UserError: No such adapter or model; or the base model where its head is new, so that its
            scores would mean nothing.
    """
    if adapter is None and not isinstance(task, GenerationTask):
        raise UserError(
            f"task {task.name!r} puts a new head on the model, which knows nothing before it is "
            "trained; give a run to score"
        )
    kind = kind_of(task, config)
    model, tokenizer = kind.load()
    check_length(kind.max_length, model, tokenizer)
    if adapter is not None:
        model = methods.load(model, adapter)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _evaluator(kind, model, tokenizer, scratch, on_progress)
        return kind.final(
            trainer, task.test, on_progress=lambda done, of: on_progress(done, of, "answering")
        )


def _evaluator(
    kind: Kind[Any], model: Any, tokenizer: Any, scratch: str, on_progress: OnProgress
) -> Trainer:
    """A Trainer that only predicts."""
    config = kind.config
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=scratch,
            per_device_eval_batch_size=config.micro_batch_size or config.batch_size,
            use_cpu=not torch.accelerator.is_available(),
            train_sampling_strategy="group_by_length",
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            log_level="error",
        ),
        data_collator=kind.collator(tokenizer, model),
        processing_class=tokenizer,
        callbacks=[Progress(on_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
