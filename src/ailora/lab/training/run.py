"""One training run from settings to a finished folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from ailora.adapters.update import update_norms
from ailora.checkpoints.resumable import whole_folder
from ailora.errors import UserError
from ailora.lab import methods
from ailora.lab.methods.table import method_named
from ailora.lab.methods.variants import checked
from ailora.lab.settings import RunConfig
from ailora.lab.tasks import Task
from ailora.lab.training.casting import frozen_weights_cast_once
from ailora.lab.training.continued import check_same, weights_of
from ailora.lab.training.folder import RunFolder, check_name
from ailora.lab.training.kinds import Kind, Scored, kind_of
from ailora.lab.training.machine import alone_in, environment, gather, settle_fsdp, state
from ailora.lab.training.model import check_length, outputs_on
from ailora.lab.training.monitoring import OnProgress
from ailora.lab.training.shared import Shared, content, of_model
from ailora.lab.training.trainer import (
    build_trainer,
    check_trainer,
    groups_of,
    run_to_end,
    some,
)

logger = logging.getLogger(__name__)

START_BATCHES = 32


def train(
    config: RunConfig,
    task: Task,
    out: Path,
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    on_progress: OnProgress = lambda step, steps, what: None,
    shared: Shared | None = None,
) -> dict[str, Any]:
    """Train one adapter and leave a finished run folder below ``out``.

    Args:
        config: The run's settings.
        task: The data that ``config.task`` names.
        out: Folder of runs; this one's is named by `RunConfig.run_id`.
        resume: Continue an unfinished run from its last checkpoint, to the same end weights.
        callbacks: Callbacks of transformers' Trainer. They do not count in the run's name: give one
            that changes the training a folder of its own.
        on_progress: Called with (step, steps, what) after every step.
        shared: What earlier runs of this process have computed, and this one then need not; the
            result is the same to the bit.

    Returns:
        The result that stands in ``result.json``; a finished run's is returned at once.

    Raises:
        UserError: Unfinished run without ``resume``, unknown method or model, settings that do
            not fit the model; then nothing has been written.
        LockedError: Another process does this run.
        DivergedError: The loss or the outputs are no longer numbers.
        Terminated: SIGTERM or SIGHUP came while it trained; a checkpoint of that step is there.
    """
    config = checked(config)
    settle_fsdp()
    check_name(out)
    folder = RunFolder(out.absolute() / config.run_id(task.name, task.fingerprint))
    finished = folder.result()
    if finished is not None:
        logger.info("%s is finished already", folder.path)
        folder.tidy()
        return finished
    with alone_in(folder.path) as check:
        # Another process may have finished it just before this one held the folder.
        return folder.result() or _train(
            config, task, folder, resume, callbacks, check, on_progress, shared
        )


def _train(
    config: RunConfig,
    task: Task,
    folder: RunFolder,
    resume: bool,
    callbacks: Sequence[TrainerCallback],
    check: Callable[[], None],
    on_progress: OnProgress,
    shared: Shared | None,
) -> dict[str, Any]:
    def tell(step: int, steps: int, what: str) -> None:
        check()
        on_progress(step, steps, what)

    checkpoint = _last_checkpoint(folder, resume)
    check_trainer(config)
    kind = kind_of(task, config)
    model, tokenizer, measured, weights = _prepare(kind, shared)
    if checkpoint is not None:
        check_same(folder.path, weights, environment())
    # Nothing is written before for settings that do not work.
    _begin(folder, config, task, weights, checkpoint)
    trainer = build_trainer(
        kind,
        folder,
        model,
        tokenizer,
        on_progress=tell,
        fresh=checkpoint is None,
        callbacks=callbacks,
        shared=shared,
    )
    # A caller's callback may merge.
    casts = nullcontext() if callbacks else frozen_weights_cast_once(trainer.model)
    with casts:
        run_to_end(trainer, checkpoint)
        return _finish(kind, folder, trainer, measured, tell)


def _last_checkpoint(folder: RunFolder, resume: bool) -> Path | None:
    if folder.started and not resume:
        raise UserError(
            f"{folder.path}: holds an unfinished run of these settings; "
            "continue it with --resume or remove the folder"
        )
    return folder.last_checkpoint() if resume else None


def _begin(
    folder: RunFolder, config: RunConfig, task: Task, weights: str, checkpoint: Path | None
) -> None:
    state().wait_for_everyone()  # a late process must not find the folder begun
    if state().is_main_process:
        _write_beginning(folder, config, task, weights, checkpoint)
    state().wait_for_everyone()


def _write_beginning(
    folder: RunFolder, config: RunConfig, task: Task, weights: str, checkpoint: Path | None
) -> None:
    if checkpoint is None:
        folder.clear()
        folder.start(config, task.fingerprint, environment(), weights)
    else:
        folder.rewind(int(checkpoint.name.rpartition("-")[2]))


def _prepare(
    kind: Kind[Any], shared: Shared | None
) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, Any], str]:
    """Adapted model and tokeniser, with what was measured on the way and `weights_of` the base."""
    base, tokenizer = kind.load()
    weights = weights_of(base)
    check_length(kind.max_length, base.config, tokenizer)
    batch = _few(kind, base, tokenizer)
    before = _outputs_of_base(base, batch, shared)
    began = time.perf_counter()
    build = method_named(kind.config.method).build
    model = build(base, kind.config, lambda: _batches(kind, base, tokenizer))
    seconds = time.perf_counter() - began
    groups_of(model, kind.config)  # refuses rates of what is not trained
    moved = (outputs_on(model, batch) - before).abs().max()
    return model, tokenizer, {"init_seconds": seconds, "step0_deviation": float(moved)}, weights


def _outputs_of_base(base: PreTrainedModel, batch: Any, shared: Shared | None) -> Tensor:
    if shared is None:
        return outputs_on(base, batch)
    made_of = of_model(base)
    key = None if made_of is None else content(made_of, batch)
    return shared.once(key, lambda: outputs_on(base, batch))


def _few(kind: Kind[Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    """One batch of test rows."""
    rows: Dataset = kind.encode(some(kind.task.test, kind.step0_rows), tokenizer)
    return kind.collator(tokenizer, model)(list(rows.take(min(len(rows), kind.step0_rows))))


def _batches(
    kind: Kind[Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Any]:
    """A few training batches, for methods that start from data.

    Where the rows do not fill them, they are of nearly one size: a short last one would weigh its
    rows more in LoRA-GA's gradient, and could hold too few tokens for EVA.
    """
    config = kind.config
    size = config.micro_batch_size or config.batch_size
    rows = kind.task.train.shuffle(seed=config.seed)
    encoded = kind.encode(rows.take(min(len(rows), START_BATCHES * size)), tokenizer)
    collate = kind.collator(tokenizer, model)
    for chosen in np.array_split(np.arange(len(encoded)), math.ceil(len(encoded) / size)):
        yield collate([encoded[int(row)] for row in chosen])


def _finish(
    kind: Kind[Any],
    folder: RunFolder,
    trainer: Trainer,
    measured: dict[str, Any],
    on_progress: OnProgress,
) -> dict[str, Any]:
    task, evaluating = kind.task, _evaluation_seconds(trainer)
    began = time.perf_counter()
    scored = {
        name: kind.final(trainer, rows, on_progress=_said(on_progress, f"answering {name}"))
        for name, rows in (("selection", task.selection), ("test", task.test))
    }
    evaluating += time.perf_counter() - began
    gather(trainer.model)
    if state().is_main_process:
        with whole_folder(folder.adapter) as fresh:
            methods.save(trainer.model, fresh)
        for name, split in scored.items():
            folder.keep_outputs(name, split.outputs)
        folder.finish(_result(kind, folder, trainer, scored, measured | {"score": evaluating}))
    state().wait_for_everyone()
    return folder.result() or {}


def _result(
    kind: Kind[Any],
    folder: RunFolder,
    trainer: Trainer,
    scored: dict[str, Scored],
    measured: dict[str, Any],
) -> dict[str, Any]:
    history = folder.history()
    return {
        "config": asdict(kind.config),
        "data": _data(kind),
        "metrics": {name: split.metrics for name, split in scored.items()},
        "by_group": {name: split.by_group for name, split in scored.items() if split.by_group},
        "majority": kind.majority(),
        "history": history,
        "parameters": asdict(methods.count(trainer.model)),
        "seconds": {
            "init": measured["init_seconds"],
            "train": history[-1]["seconds"],
            "evaluate": measured["score"],
        },
        "step0_deviation": measured["step0_deviation"],
        "updates": _updates(trainer.model),
        "environment": environment() | _launched(trainer),
    }


def _launched(trainer: Trainer) -> dict[str, Any]:
    """How many processes, and Accelerate's word for how they share the work: NO, FSDP, ..."""
    return {
        "processes": state().num_processes,
        "distributed": trainer.accelerator.distributed_type.value,
    }


def _said(on_progress: OnProgress, what: str) -> Callable[[int, int], None]:
    return lambda done, of: on_progress(done, of, what)


def _evaluation_seconds(trainer: Trainer) -> float:
    return float(sum(entry.get("eval_runtime", 0.0) for entry in trainer.state.log_history))


def _data(kind: Kind[Any]) -> dict[str, Any]:
    task, labels = kind.task, kind.class_names
    return {
        "train": task.train.num_rows,
        "selection": task.selection.num_rows,
        "test": task.test.num_rows,
        "labels": list(labels) if labels else None,
        "metric": task.metrics[0],
        "fingerprint": task.fingerprint,
        "positive": getattr(task, "positive", None),
        "notes": [*(task.statement.facts() if task.statement else ()), *task.notes],
    }


def _updates(model: nn.Module) -> list[dict[str, Any]]:
    """How far each adapted weight moved, for the methods whose update is a product B A."""
    if isinstance(model, PeftModel) and isinstance(model.active_peft_config, LoraConfig):
        return [asdict(norm) for norm in update_norms(model)]
    return []
