"""The order of the training rows: grouped by length, and known from seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices


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
        order: Of the rows; its ``batch_size`` is that of all processes together.
        process: Number of this process.
        processes: How many there are.
    """

    def __init__(self, order: LengthGroupedOrder, process: int, processes: int) -> None:
        self.sampler = order  # by this name accelerate finds whom to tell the epoch
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


class OrderedTrainer(Trainer):  # type: ignore[misc]
    """Trainer that takes its rows in `LengthGroupedOrder`, whatever the number of processes.

    With several, an optimiser step is that of one process with the same rows: each batch is shared
    out, and a process's mean loss counts by the rows that it holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Trainer takes any ``**kwargs`` of a model for a loss that divides by the tokens of the
        # step, and neither divides by the micro batches nor keeps the scale over processes. Of
        # transformers' models only decoders divide so.
        self.model_accepts_loss_kwargs &= self._loss_shifts_labels

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedOrder:
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(tokens) for tokens in rows["input_ids"]]
        together = self.args.train_batch_size * self.args.world_size
        return LengthGroupedOrder(lengths, together, self.args.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of this process."""
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
        """The loss, weighed so that its mean over processes is the mean over all that is learned.

        Decoders divide by the number of tokens of the whole step themselves.
        """
        held = _learned(inputs).to(self.args.device)
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if self.args.world_size == 1 or self.model_accepts_loss_kwargs or not model.training:
            return found
        weight = held / self.accelerator.reduce(held, reduction="mean")
        return (found[0] * weight, found[1]) if isinstance(found, tuple) else found * weight


def _learned(inputs: dict[str, Any]) -> torch.Tensor:
    """How many things the mean loss of a batch is over: label tokens, or rows."""
    labels: torch.Tensor | None = inputs.get("labels")
    if labels is not None and labels.ndim > 1:
        return (labels != -100).sum().float()
    return torch.tensor(float(len(inputs["input_ids"])))
