"""The order of the training rows: grouped by length, and known from seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
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


class OrderedTrainer(Trainer):  # type: ignore[misc]
    """Trainer that takes its training rows in `LengthGroupedOrder`."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedOrder:
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(tokens) for tokens in rows["input_ids"]]
        return LengthGroupedOrder(lengths, self.args.train_batch_size, self.args.seed)
