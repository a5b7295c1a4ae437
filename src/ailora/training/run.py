"""One training run from settings to a finished folder."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer

from ailora.adapters.update import update_norms
from ailora.errors import UserError
from ailora.tasks import TextTask
from ailora.training.callbacks import OnProgress
from ailora.training.config import RunConfig
from ailora.training.environment import environment
from ailora.training.folder import RunFolder
from ailora.training.measure import logits_on, majority_score
from ailora.training.methods import adapt, check_method
from ailora.training.model import check_length, load_model, tokenize
from ailora.training.trainer import build_trainer, run_to_end, some

logger = logging.getLogger(__name__)

STEP0_ROWS = 32


def train(
    config: RunConfig,
    task: TextTask,
    out: Path,
    *,
    resume: bool = False,
    on_progress: OnProgress = lambda step, steps, what: None,
) -> dict[str, Any]:
    """Train one adapter and leave a finished run folder below ``out``.

    Args:
        config: The run's settings.
        task: Its data, as ``config.task`` names it.
        out: Folder of runs; this one's is named by `RunConfig.run_id`.
        resume: Continue an unfinished run from its last checkpoint, to the same end weights.
        on_progress: Called with (step, steps, what) after every step.

    Returns:
        The result that stands in ``result.json``; a finished run's is returned at once.

    Raises:
        UserError: Unfinished run without ``resume``, unknown method or model, settings that do
            not fit the model; then nothing has been written.
        DivergedError: The loss or the outputs are no longer numbers.
    """
    check_method(config.method)
    folder = RunFolder(out.absolute() / config.run_id(task.name, task.fingerprint))
    finished = folder.result()
    if finished is not None:
        logger.info("%s is finished already", folder.path)
        return finished
    checkpoint = _last_checkpoint(folder, resume)
    model, tokenizer, measured = _prepare(config, task)
    _begin(folder, config, task, checkpoint)  # nothing is written for settings that do not work
    trainer = build_trainer(
        config, task, folder, model, tokenizer, on_progress=on_progress, fresh=checkpoint is None
    )
    run_to_end(trainer, checkpoint)
    return _finish(config, task, folder, trainer, measured)


def _last_checkpoint(folder: RunFolder, resume: bool) -> Path | None:
    if folder.started and not resume:
        raise UserError(
            f"{folder.path}: holds an unfinished run of these settings; "
            "continue it with --resume or remove the folder"
        )
    return folder.last_checkpoint() if resume else None


def _begin(folder: RunFolder, config: RunConfig, task: TextTask, checkpoint: Path | None) -> None:
    if checkpoint is None:
        folder.clear()
        folder.start(config, task.fingerprint)
    else:
        folder.rewind(int(checkpoint.name.rpartition("-")[2]))


def _prepare(
    config: RunConfig, task: TextTask
) -> tuple[PeftModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Adapted model and tokeniser, with what was measured on the way."""
    base, tokenizer = load_model(config.model, task, config.seed)
    check_length(config.max_length, base, tokenizer)
    few = tokenize(some(task.test, STEP0_ROWS), tokenizer, config.max_length)
    before = logits_on(base, few, tokenizer)
    began = time.perf_counter()
    model = adapt(base, config)
    seconds = time.perf_counter() - began
    moved = (logits_on(model, few, tokenizer) - before).abs().max()
    return model, tokenizer, {"init_seconds": seconds, "step0_deviation": float(moved)}


def _finish(
    config: RunConfig, task: TextTask, folder: RunFolder, trainer: Trainer, measured: dict[str, Any]
) -> dict[str, Any]:
    model: PeftModel = trainer.model
    metrics, evaluating = {}, _evaluation_seconds(trainer)
    for name, split in (("selection", task.selection), ("test", task.test)):
        rows = tokenize(split, trainer.processing_class, config.max_length)
        scores = trainer.evaluate(rows, metric_key_prefix=name)
        metrics[name] = {metric: scores[f"{name}_{metric}"] for metric in task.metrics}
        evaluating += scores[f"{name}_runtime"]
    model.save_pretrained(str(folder.adapter))
    history = folder.history()
    result = {
        "config": asdict(config),
        "data": _data(task),
        "metrics": metrics,
        "majority": majority_score(task),
        "history": history,
        "parameters": _parameters(model),
        "seconds": {
            "init": measured["init_seconds"],
            "train": history[-1]["seconds"],
            "evaluate": evaluating,
        },
        "step0_deviation": measured["step0_deviation"],
        "updates": [asdict(norm) for norm in update_norms(model)],
        "environment": environment(),
    }
    return folder.finish(result)


def _evaluation_seconds(trainer: Trainer) -> float:
    return float(sum(entry.get("eval_runtime", 0.0) for entry in trainer.state.log_history))


def _data(task: TextTask) -> dict[str, Any]:
    return {
        "train": task.train.num_rows,
        "selection": task.selection.num_rows,
        "test": task.test.num_rows,
        "labels": list(task.labels) if task.labels else None,
        "metric": task.metrics[0],
        "fingerprint": task.fingerprint,
        "notes": list(task.notes),
    }


def _parameters(model: PeftModel) -> dict[str, int]:
    """Trainable parameters of the adapter and of the task's head, and all there are."""
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    adapter = sum(count for name, count in trainable.items() if "lora_" in name)
    everything = sum(p.numel() for p in model.parameters())
    return {"adapter": adapter, "head": sum(trainable.values()) - adapter, "all": everything}
