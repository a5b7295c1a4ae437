"""The contract between a run and the kind of its task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from ailora.lab.tasks import Task
from ailora.lab.training.config import RunConfig

T = TypeVar("T", bound=Task)
Scores = dict[str, float]
_Array = npt.NDArray[Any]
Collator = Callable[[list[dict[str, Any]]], Any]
OnCount = Callable[[int, int], None]
Scorer = Callable[[EvalPrediction], Scores]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Final scores of one split.

    Attributes:
        metrics: By name, the task's headline first; with groups the mean over them.
        by_group: The same for each group, where the rows have some.
        outputs: A record a row of what the model answered.
    """

    metrics: Scores
    by_group: dict[str, Scores] = field(default_factory=dict)
    outputs: tuple[dict[str, Any], ...] = ()


class Kind(ABC, Generic[T]):
    """One task and one run's settings, from rows to a model's scores.

    Attributes:
        usual_length: Tokens kept where the run does not say.
        greater_is_better: Whether the first of ``monitored`` should rise.
        step0_rows: Rows on which the start is compared with the base model.
    """

    usual_length: ClassVar[int]
    greater_is_better: ClassVar[bool] = True
    step0_rows: ClassVar[int] = 32

    def __init__(self, task: T, config: RunConfig) -> None:
        self.task = task
        self.config = config
        self.max_length = config.max_length or self.usual_length
        self._encoded: dict[int, tuple[Dataset, Dataset]] = {}  # by id, which the rows keep taken

    @property
    @abstractmethod
    def monitored(self) -> tuple[str, ...]:
        """What an evaluation along the run measures, in Trainer's names without "eval_".

        The first decides on stopping early.
        """

    @property
    @abstractmethod
    def peft_task_type(self) -> str:
        """PEFT's name for it; known once the model is loaded."""

    @abstractmethod
    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base model with the head that the task needs, and its tokeniser.

        Raises:
            UserError: No such model, or one that does not fit the task.
        """

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Rows as the model reads them, with labels; padding waits for the batch."""

    def encoded(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """`encode`, once a run for the same rows: a split is evaluated along the run and after."""
        if id(rows) not in self._encoded:
            self._encoded[id(rows)] = (rows, self.encode(rows, tokenizer))
        return self._encoded[id(rows)][1]

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Encoded rows to one padded batch."""

    def scorer(self, rows: Dataset, encoded: Dataset) -> Scorer | None:
        """Scores along the run, as Trainer's ``compute_metrics``; None measures the loss alone."""
        return None

    @abstractmethod
    def final(
        self, trainer: Trainer, rows: Dataset, *, on_progress: OnCount = lambda done, of: None
    ) -> Scored:
        """Scores of the trained model on a whole split.

        Args:
            trainer: With the model; its callbacks hear of each batch it predicts.
            rows: The split.
            on_progress: Called with (done, of) for what the trainer has no part in.

        Raises:
            DivergedError: The model's outputs are no longer numbers.
        """

    def majority(self) -> float | None:
        """Headline score on test of always answering the commonest; None where there is none."""
        return None


def evaluation_order(trainer: Trainer, encoded: Dataset) -> npt.NDArray[np.int64]:
    """Which row each prediction of ``trainer.predict(encoded)`` belongs to.

    Trainer puts rows of like length together in evaluations too, and gives predictions as they
    came. Its sampler is private, but nothing public tells the order.
    """
    return np.fromiter(trainer._get_eval_sampler(encoded.select_columns("input_ids")), np.int64)


def in_row_order(values: _Array, order: _Array) -> _Array:
    """Predictions as they came, put back to their rows; ``order`` is `evaluation_order`'s."""
    restored = np.empty_like(values)
    restored[order] = values
    return restored


def mean_over_groups(by_group: dict[str, Scores]) -> Scores:
    """Unweighted mean of each score, as papers average over test sets."""
    names = next(iter(by_group.values()))
    return {name: fmean(scores[name] for scores in by_group.values()) for name in names}


def rows_of_groups(rows: Dataset) -> dict[str, list[int]]:
    """Row numbers of each group, in order of first appearance; empty without groups."""
    found: dict[str, list[int]] = {}
    if "group" in rows.column_names:
        for index, group in enumerate(rows["group"]):
            found.setdefault(group, []).append(index)
    return found
