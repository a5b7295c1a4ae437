"""What a text task is: three splits, its labels, its metrics, and a fingerprint of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from datasets import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTask:
    """Text classification or regression, ready to be tokenised.

    Attributes:
        name: Safe as a part of a file name.
        train: Rows to learn from. Each split has the columns ``text`` (str), ``text_pair`` (str,
            only where the task has two texts) and ``label`` (int64 class index, or float64).
        selection: Rows to choose rates or stop early by. Never reported.
        test: Rows whose scores are reported. Nothing is chosen by them.
        labels: Class names by index; None for regression.
        metrics: Names for ``metrics.compute``; the first is the headline.
        fingerprint: SHA-256 of the rows of the three splits, in order, and of the class names.
        notes: One line each on what was split, dropped or shared between splits.
    """

    name: str
    train: Dataset
    selection: Dataset
    test: Dataset
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return self.labels is None

    @property
    def num_outputs(self) -> int:
        """Width of the model's head (``num_labels`` in transformers): 1 for regression."""
        return 1 if self.labels is None else len(self.labels)

    @property
    def has_pair(self) -> bool:
        """Whether each row has a second text."""
        return "text_pair" in self.train.column_names


def fingerprint_of(splits: tuple[Dataset, Dataset, Dataset], labels: tuple[str, ...] | None) -> str:
    """Return the SHA-256 of all rows in order and of the class names, as hex."""
    digest = hashlib.sha256(json.dumps(labels).encode())
    for split in splits:
        digest.update(f"\n{split.num_rows}".encode())
        columns = [split[name][:] for name in sorted(split.column_names)]
        for row in zip(*columns, strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()
