"""transformers' Trainer as a run uses it: set up, in an order of rows that can be found again.

With one seed and one epoch the rows come in one order, whatever the number of processes; so a run
goes on from a checkpoint, and several processes do what one would.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from transformers.utils import is_bitsandbytes_available

from ailora.adapters import log_roles
from ailora.adapters.optimizer import parameter_groups
from ailora.errors import UserError
from ailora.lab import methods
from ailora.lab.methods.targets import head_parameters
from ailora.lab.settings import RunConfig
from ailora.lab.training.folder import STATE, RunFolder
from ailora.lab.training.kinds import Kind
from ailora.lab.training.machine import computes_bf16_natively, share_of
from ailora.lab.training.monitoring import (
    CheckpointOnRequest,
    OnDisk,
    OnProgress,
    Progress,
    Recorder,
)
from ailora.lab.training.shared import Shared, content, of_start
from ailora.termination import on_request


def build_trainer(
    kind: Kind[Any],
    folder: RunFolder,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    on_progress: OnProgress,
    fresh: bool,
    callbacks: Sequence[TrainerCallback] = (),
    shared: Shared | None = None,
) -> Trainer:
    """A Trainer that writes its evaluations and checkpoints into the run's folder.

    Args:
        kind: The task and the run's settings.
        folder: The run's folder.
        model: The adapted model.
        tokenizer: Its tokeniser.
        on_progress: Called with (step, steps, what) after every step.
        fresh: Whether the run begins at step 0, which is then evaluated too.
        callbacks: The caller's; they are called after the run's own.
        shared: What other runs of this process have computed.
    """
    config = kind.config
    rows = kind.encoded(kind.task.train, tokenizer)
    watched = some(kind.task.selection, config.monitor_rows)
    encoded = kind.encoded(watched, tokenizer)
    own = [Recorder(folder, kind.monitored), OnDisk(), Progress(on_progress)]
    if config.early_stopping:
        own.append(EarlyStoppingCallback(config.early_stopping))
    trainer = RunTrainer(
        model=model,
        args=_arguments(kind, folder, rows, fresh),
        config=config,
        train_dataset=rows,
        eval_dataset=encoded,
        data_collator=kind.collator(tokenizer, model),
        processing_class=tokenizer,
        compute_metrics=kind.scorer(watched, encoded),
        callbacks=[*own, *callbacks],
        # A caller's callback may change the weights when training ends, as averaging does.
        reuse=not callbacks,
        shared=None if callbacks else shared,
    )
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):  # beside what is removed in the end
            callback.logging_dir = callback.logging_dir or str(folder.events)
    log_roles(trainer)
    return trainer


def check_trainer(config: RunConfig) -> None:
    """Raise a UserError if a run's trackers or optimiser are not there; nothing is written."""
    try:
        for tracker in get_reporting_integration_callbacks(_trackers(config)):
            tracker()
    except (ValueError, RuntimeError, ImportError) as error:
        said = str(error).strip().partition("\n")[0]
        raise UserError(f"report_to={config.report_to!r}: {said}") from error
    if config.optim.endswith(_OF_BITSANDBYTES) and not is_bitsandbytes_available():
        raise UserError(
            f"optim={config.optim!r}: needs bitsandbytes; pip install 'ailora[quantized]'"
        )


def groups_of(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: the roles' rates, and the head's, whichever method put it there.

    Raises:
        UserError: A rate of something that the model does not train.
    """
    return parameter_groups(
        model,
        lr=config.lr,
        head_lr=config.head_lr,
        loraplus_lr_ratio=config.loraplus_lr_ratio,
        weight_decay=config.weight_decay,
        head=[parameter for _, parameter in head_parameters(model)],
    )


def build_evaluator(
    kind: Kind[Any],
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    on_progress: OnProgress,
) -> Trainer:
    """A Trainer that only predicts; ``folder`` is scratch."""
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(folder), report_to="none", **_common_arguments(kind.config)),
        data_collator=kind.collator(tokenizer, model),
        processing_class=tokenizer,
        callbacks=[Progress(on_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def some(rows: Dataset, count: int | None) -> Dataset:
    """A fixed sample: files often hold one class after the other."""
    if count is None or count >= len(rows):
        return rows
    return rows.shuffle(seed=0).take(count)


def run_to_end(trainer: Trainer, checkpoint: Path | None) -> None:
    """Train from the start or from a checkpoint; the model then has the run's end weights.

    Raises:
        Terminated: SIGTERM or SIGHUP came. A checkpoint of the step that was under way is there.
    """
    with on_request() as request:
        trainer.add_callback(CheckpointOnRequest(request))
        _train(trainer, checkpoint)


def _train(trainer: Trainer, checkpoint: Path | None) -> None:
    if checkpoint is None:
        trainer.train()
        return
    with _of_checkpoint(checkpoint):
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


@contextmanager
def _of_checkpoint(checkpoint: str | Path | None) -> Iterator[None]:
    """Turn whatever a checkpoint's state does to those who read it into a UserError.

    torch reads it with ``weights_only=True``; what it is made of is not looked at before it is set.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{checkpoint}: its state cannot be read ({type(error).__name__}: {reason}); remove "
            "that folder, and the run goes on from the checkpoint before it"
        ) from error


# Ends of the names of the optimisers that are bitsandbytes's.
_OF_BITSANDBYTES = ("_8bit", "_32bit")


class RunTrainer(Trainer):  # type: ignore[misc]
    """Trainer with each role's learning rate, and its rows in `LengthGroupedOrder`.

    With several processes, an optimiser step is that of one process with the same rows: each batch
    is shared out, and a process's mean loss counts by the rows that it holds.

    Args:
        config: The run's settings.
        reuse: Let `predict` give what the last evaluation has computed, if that was of the same
            rows and no weight has changed since: a run ends with an evaluation of the selection
            split, and its final scores are of that split too.
        shared: What other runs of this process have computed: where the start is exact, the
            evaluation before the first step is that of the base model.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(
        self,
        *args: Any,
        config: RunConfig,
        reuse: bool = False,
        shared: Shared | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.config = config
        self._shared = shared if self.args.world_size == 1 else None
        self._start: str | None = None  # hash of an exact start, while it is evaluated
        self._reuse = reuse and self.args.world_size == 1
        self._evaluated: EvalLoopOutput | None = None  # of `eval_dataset`, with today's weights
        # Trainer takes any ``**kwargs`` of a model for a loss that divides by the tokens of the
        # step, and neither divides by the micro batches nor keeps the scale over processes. Of
        # transformers' models only decoders divide so.
        self.model_accepts_loss_kwargs &= self._loss_shifts_labels

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's own with the roles' groups, made when it asks: FSDP exchanges parameters."""
        if self.optimizer is None:
            made, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = groups_of(self.model, self.config)
            self.optimizer_cls_and_kwargs = made, {**options, "params": groups}
        return cast("torch.optim.Optimizer", super().create_optimizer())

    def evaluation_loop(
        self, dataloader: DataLoader[Any], description: str, *args: Any, **kwargs: Any
    ) -> EvalLoopOutput:
        """Trainer's own, whose outputs are kept until a weight changes."""
        found = super().evaluation_loop(dataloader, description, *args, **kwargs)
        self._evaluated = found if self._reuse and description == "Evaluation" else None
        return found

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's own; outputs for other rows than the run's are not kept."""
        if self._shared is not None and self.state.global_step == 0:
            self._start = of_start(self.model)
        metrics = super().evaluate(eval_dataset, *args, **kwargs)
        self._start = None
        if eval_dataset is not None:
            self._evaluated = None
        return cast("dict[str, float]", metrics)

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own, or at an exact start what another run has computed of these rows."""
        step = functools.partial(super().prediction_step, model, inputs, *args, **kwargs)
        if self._shared is None or self._start is None:
            return step()
        key = content(self._start, self.args.bf16, str(self.args.device), args, kwargs, inputs)
        return self._shared.once(key, step)

    def predict(self, test_dataset: Dataset, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Trainer's own, or the outputs of the last evaluation where they are these."""
        last, self._evaluated = self._evaluated, None
        if last is None or last.predictions is None or test_dataset is not self.eval_dataset:
            return super().predict(test_dataset, *args, **kwargs)
        return PredictionOutput(last.predictions, last.label_ids, last.metrics)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Trainer's own; what was evaluated before it is no longer what the model computes."""
        self._evaluated = None
        return cast("torch.Tensor", super().training_step(*args, **kwargs))

    def _load_best_model(self) -> None:
        self._evaluated = None
        super()._load_best_model()

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._evaluated = None
        super()._load_from_checkpoint(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _of_checkpoint(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _of_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedOrder:
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(tokens) for tokens in rows["input_ids"]]
        together = self.args.train_batch_size * self.args.world_size
        return LengthGroupedOrder(lengths, together, self.args.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's share of the batches."""
        if self.args.world_size == 1:
            return cast("DataLoader[Any]", super().get_train_dataloader())
        rows = self._remove_unused_columns(self.train_dataset, description="training")
        shared = SharedBatches(
            self._get_train_sampler(), self.args.process_index, self.args.world_size
        )
        loader = DataLoader(rows, batch_sampler=shared, collate_fn=self.data_collator)
        prepared = prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return cast("DataLoader[Any]", prepared)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss, weighed so that the mean over processes is the mean over all labels.

        Decoders divide by the number of tokens of the whole step themselves.
        """
        held = _learned(inputs).to(self.args.device)
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if self.args.world_size == 1 or self.model_accepts_loss_kwargs or not model.training:
            return found
        weight = held / self.accelerator.reduce(held, reduction="mean")
        return (found[0] * weight, found[1]) if isinstance(found, tuple) else found * weight


class LengthGroupedOrder(Sampler[int]):
    """Rows of like length together, in an order that differs by epoch.

    transformers' own sampler draws from the global random state. A run that resumes within an
    epoch cannot find that state again and would see other rows; here it need not.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer's data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # torch's generator reads 32 bits of a seed, so the two numbers are hashed into one.
        mixed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        own = torch.Generator().manual_seed(mixed)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=own))


class SharedBatches(Sampler[list[int]]):
    """One process's rows of every batch, so that all of them together take one process's batches.

    accelerate's own sharding fills the last batch up with rows from the beginning, which one
    process would not see. Here the last one is shared out as it is; where it has fewer rows than
    there are processes, each takes all of them, and the mean over processes is the same.

    Args:
        order: Order of the rows; its ``batch_size`` is that of all processes together.
        process: Number of this process.
        processes: How many there are.
    """

    def __init__(self, order: LengthGroupedOrder, process: int, processes: int) -> None:
        self.sampler = order  # accelerate looks here to set the epoch
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.sampler.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.sampler)
        for first in range(0, len(rows), self.sampler.batch_size):
            batch = rows[first : first + self.sampler.batch_size]
            few = len(batch) < self.processes
            yield batch if few else batch[self.process :: self.processes]


def _arguments(kind: Kind[Any], folder: RunFolder, rows: Dataset, fresh: bool) -> TrainingArguments:
    config = kind.config
    micro = config.micro_batch_size or config.batch_size
    every = _steps_between_evaluations(config, rows)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_bf16_natively())
    return TrainingArguments(
        output_dir=str(folder.checkpoints),
        per_device_train_batch_size=share_of(micro),
        gradient_accumulation_steps=config.batch_size // micro,
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        # Below 1 it is a share of the steps.
        warmup_steps=config.warmup_ratio if config.warmup_steps is None else config.warmup_steps,
        bf16=bf16,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=fresh,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,  # the best and the last; at 1, Trainer ends by deleting the last
        logging_strategy="steps",
        logging_steps=config.logging_steps or every,
        logging_nan_inf_filter=False,  # it would show the last finite loss of a diverged run
        load_best_model_at_end=config.early_stopping is not None,
        metric_for_best_model=f"eval_{kind.monitored[0]}",
        greater_is_better=kind.greater_is_better,
        restore_callback_states_from_checkpoint=True,
        report_to=_trackers(config),
        run_name=folder.path.name,
        **config.trainer_options(),
        **_common_arguments(config),
    )


def _trackers(config: RunConfig) -> str | list[str]:
    """The trackers as Trainer takes them."""
    named = list(config.report_to or ["none"])
    return named[0] if named in (["none"], ["all"]) else named


def _common_arguments(config: RunConfig) -> dict[str, Any]:
    """What training and mere evaluation have in common: small batches by length, no chatter."""
    return {
        # Small ones group by length better.
        "per_device_eval_batch_size": config.micro_batch_size or config.batch_size,
        "train_sampling_strategy": "group_by_length",  # for evaluations; training has its own
        "use_cpu": not torch.accelerator.is_available(),  # said so, a processor may have bf16 too
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        "log_level": "error",
    }


def _steps_between_evaluations(config: RunConfig, rows: Dataset) -> int:
    an_epoch = math.ceil(len(rows) / config.batch_size)
    if config.evaluations is None:
        return an_epoch
    return max(1, math.ceil(an_epoch * config.epochs / config.evaluations))


def _learned(inputs: dict[str, Any]) -> torch.Tensor:
    """How many labels the mean loss of a batch is over: label tokens, or rows."""
    labels: torch.Tensor | None = inputs.get("labels")
    if labels is not None and labels.ndim > 1:
        return (labels != -100).sum().float()
    return torch.tensor(float(len(inputs["input_ids"])))


def _was_over(state: TrainerState) -> bool:
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])


def _shard(trainer: Trainer) -> None:
    """As training would; evaluating alone tries it without an optimiser, which FSDP2 refuses."""
    optimizer = trainer.create_optimizer()
    trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, optimizer)
    trainer.model_wrapped = trainer.model
