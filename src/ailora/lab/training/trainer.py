"""transformers' Trainer set up for one run, and how it goes on from a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)

from ailora.adapters import create_optimizer
from ailora.lab import methods
from ailora.lab.training.callbacks import OnProgress, Progress, Recorder
from ailora.lab.training.config import RunConfig
from ailora.lab.training.environment import computes_bf16_natively
from ailora.lab.training.folder import STATE, RunFolder
from ailora.lab.training.kinds import Kind
from ailora.lab.training.order import OrderedTrainer
from ailora.lab.training.processes import share_of


def build_trainer(
    kind: Kind[Any],
    folder: RunFolder,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    on_progress: OnProgress,
    fresh: bool,
) -> Trainer:
    """A Trainer that writes its evaluations and checkpoints into the run's folder.

    Args:
        kind: The task and the run's settings.
        folder: Of the run.
        model: The adapted model.
        tokenizer: Its tokeniser.
        on_progress: Called with (step, steps, what) after every step.
        fresh: Whether it begins at step 0, which is then evaluated too.
    """
    config = kind.config
    rows = kind.encoded(kind.task.train, tokenizer)
    watched = some(kind.task.selection, config.monitor_rows)
    encoded = kind.encoded(watched, tokenizer)
    callbacks = [Recorder(folder, kind.monitored), Progress(on_progress)]
    if config.early_stopping:
        callbacks.append(EarlyStoppingCallback(config.early_stopping))
    trainer = RunTrainer(
        model=model,
        args=_arguments(kind, folder, rows, fresh),
        train_dataset=rows,
        eval_dataset=encoded,
        data_collator=kind.collator(tokenizer, model),
        processing_class=tokenizer,
        compute_metrics=kind.scorer(watched, encoded),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class RunTrainer(OrderedTrainer):
    """With each role's learning rate."""

    optimizer: torch.optim.Optimizer | None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, made here and not before: FSDP has to exchange the parameters in it."""
        if self.optimizer is None:
            # Fused as Trainer's own is: a plain loop over the parameters takes three times as long.
            self.optimizer = create_optimizer(
                self.model, lr=self.args.learning_rate, weight_decay=self.args.weight_decay,
                fused=True,
            )  # fmt: skip
        return self.optimizer


def run_to_end(trainer: Trainer, checkpoint: Path | None) -> None:
    """Train from the start or from a checkpoint; the model then has the run's end weights."""
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / STATE))
    if not _was_over(state):
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    # Trainer would forget that an early stop was decided, and train on.
    trainer.state = state
    keeps_best = trainer.args.load_best_model_at_end
    best = checkpoint.with_name(f"checkpoint-{state.best_global_step}")
    methods.restore(trainer.model, best if keeps_best else checkpoint)
    if trainer.is_fsdp_enabled:
        _shard(trainer)


def _shard(trainer: Trainer) -> None:
    """As training would; evaluating alone tries it without an optimiser, which FSDP2 refuses."""
    optimizer = trainer.create_optimizer()
    trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, optimizer)
    trainer.model_wrapped = trainer.model


def some(rows: Dataset, count: int | None) -> Dataset:
    """A fixed sample: files often hold one class after the other."""
    if count is None or count >= len(rows):
        return rows
    return rows.shuffle(seed=0).take(count)


def _was_over(state: TrainerState) -> bool:
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])


def _arguments(kind: Kind[Any], folder: RunFolder, rows: Dataset, fresh: bool) -> TrainingArguments:
    config = kind.config
    micro = config.micro_batch_size or config.batch_size
    every = _steps_between_evaluations(config, rows)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_bf16_natively())
    return TrainingArguments(
        output_dir=str(folder.checkpoints),
        per_device_train_batch_size=share_of(micro),
        gradient_accumulation_steps=config.batch_size // micro,
        per_device_eval_batch_size=micro,  # small ones group by length better
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_ratio,  # below 1 it is a share of the steps
        weight_decay=config.weight_decay,
        bf16=bf16,
        use_cpu=not torch.accelerator.is_available(),  # said so, a processor may have bf16 too
        seed=config.seed,
        train_sampling_strategy="group_by_length",  # for evaluations; see `order` for training
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=fresh,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,  # the best and the last; at 1, Trainer ends by deleting the last
        logging_strategy="steps",
        logging_steps=every,
        logging_nan_inf_filter=False,  # it would show the last finite loss of a diverged run
        load_best_model_at_end=config.early_stopping is not None,
        metric_for_best_model=f"eval_{kind.monitored[0]}",
        greater_is_better=kind.greater_is_better,
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
