"""One training run from settings to a finished folder, by transformers' Trainer."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from ailora.adapters import create_optimizer
from ailora.adapters.update import update_norms
from ailora.errors import UserError
from ailora.tasks import TextTask
from ailora.training.callbacks import OnProgress, Progress, Recorder
from ailora.training.config import RunConfig
from ailora.training.environment import computes_bf16_natively, environment
from ailora.training.folder import RunFolder
from ailora.training.measure import logits_on, majority_score, scorer
from ailora.training.methods import adapt, check_method
from ailora.training.model import load_model, tokenize

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
        UserError: Unfinished run without ``resume``, unknown method or model, diverged training.
    """
    check_method(config.method)
    folder = RunFolder(out / config.run_id(task.name, task.fingerprint))
    finished = folder.result()
    if finished is not None:
        logger.info("%s is finished already", folder.path)
        return finished
    checkpoint = _begin(folder, config, task, resume)
    model, tokenizer, init = _prepare(config, task)
    trainer = _trainer(config, task, folder, model, tokenizer, on_progress)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    init["seconds"]["train"] = time.perf_counter() - began
    return _finish(config, task, folder, trainer, init)


def _begin(folder: RunFolder, config: RunConfig, task: TextTask, resume: bool) -> Path | None:
    if folder.started and not resume:
        raise UserError(
            f"{folder.path}: holds an unfinished run of these settings; "
            "continue it with --resume or remove the folder"
        )
    checkpoint = folder.last_checkpoint() if resume else None
    if checkpoint is None:
        folder.clear()
        folder.start(config, task.fingerprint)
    else:
        folder.rewind(int(checkpoint.name.rpartition("-")[2]))
    return checkpoint


def _prepare(
    config: RunConfig, task: TextTask
) -> tuple[PeftModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Adapted model and tokeniser, with what was measured on the way."""
    base, tokenizer = load_model(config.model, task, config.seed)
    few = tokenize(_some(task.test, STEP0_ROWS), tokenizer, config.max_length)
    before = logits_on(base, few, tokenizer)
    began = time.perf_counter()
    model = adapt(base, config)
    seconds = time.perf_counter() - began
    moved = (logits_on(model, few, tokenizer) - before).abs().max()
    return model, tokenizer, {"seconds": {"init": seconds}, "step0_deviation": float(moved)}


def _trainer(
    config: RunConfig,
    task: TextTask,
    folder: RunFolder,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    on_progress: OnProgress,
) -> Trainer:
    rows = tokenize(task.train, tokenizer, config.max_length)
    callbacks = [Recorder(folder, task.metrics), Progress(on_progress)]
    if config.early_stopping:
        callbacks.append(EarlyStoppingCallback(config.early_stopping))
    trainer = Trainer(
        model=model,
        args=_arguments(config, task, folder, rows),
        train_dataset=rows,
        eval_dataset=tokenize(
            _some(task.selection, config.monitor_rows), tokenizer, config.max_length
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=scorer(task),
        optimizers=(create_optimizer(model, lr=config.lr, weight_decay=config.weight_decay), None),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _some(rows: Dataset, count: int | None) -> Dataset:
    """A fixed sample: files often hold one class after the other."""
    if count is None or count >= len(rows):
        return rows
    return rows.shuffle(seed=0).take(count)


def _arguments(
    config: RunConfig, task: TextTask, folder: RunFolder, rows: Dataset
) -> TrainingArguments:
    every = _steps_between_evaluations(config, rows)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_bf16_natively())
    return TrainingArguments(
        output_dir=str(folder.checkpoints),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,  # small ones group by length better
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_ratio,  # below 1 it is a share of the steps
        weight_decay=config.weight_decay,
        bf16=bf16,
        seed=config.seed,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=every,
        logging_nan_inf_filter=False,  # it would show the last finite loss of a diverged run
        load_best_model_at_end=config.early_stopping is not None,
        metric_for_best_model=f"eval_{task.metrics[0]}",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def _steps_between_evaluations(config: RunConfig, rows: Dataset) -> int:
    an_epoch = math.ceil(len(rows) / config.batch_size)
    if config.evaluations is None:
        return an_epoch
    return max(1, math.ceil(an_epoch * config.epochs / config.evaluations))


def _finish(
    config: RunConfig, task: TextTask, folder: RunFolder, trainer: Trainer, init: dict[str, Any]
) -> dict[str, Any]:
    model: PeftModel = trainer.model
    metrics, evaluating = {}, _evaluation_seconds(trainer)
    for name, split in (("selection", task.selection), ("test", task.test)):
        rows = tokenize(split, trainer.processing_class, config.max_length)
        scores = trainer.evaluate(rows, metric_key_prefix=name)
        metrics[name] = {metric: scores[f"{name}_{metric}"] for metric in task.metrics}
        evaluating += scores[f"{name}_runtime"]
    model.save_pretrained(str(folder.adapter))
    seconds = init["seconds"]
    result = {
        "config": asdict(config),
        "data": _data(task),
        "metrics": metrics,
        "majority": majority_score(task),
        "history": folder.history(),
        "parameters": _parameters(model),
        "seconds": {
            "init": seconds["init"],
            "train": seconds["train"] - _evaluation_seconds(trainer),
            "evaluate": evaluating,
        },
        "step0_deviation": init["step0_deviation"],
        "updates": [asdict(norm) for norm in update_norms(model)],
        "environment": environment(),
    }
    folder.finish(result)
    return result


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
