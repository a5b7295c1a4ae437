"""The contract between a run and the kind of its task: what a new kind has to fill in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import (
    EvalPrediction,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers.trainer_utils import PredictionOutput

from ailora.lab.settings import RunConfig
from ailora.lab.tasks import Task
from ailora.lab.training.model import check_length, load_tokenizer

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
        metrics: Scores by name, the task's headline first; with groups the mean over them.
        by_group: The same for each group, where the rows have groups.
        outputs: One record per row of what the model answered.
    """

    metrics: Scores
    by_group: dict[str, Scores] = field(default_factory=dict)
    outputs: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        rows: Dataset,
        score: Callable[[Sequence[int]], Scores],
        outputs: tuple[dict[str, Any], ...] = (),
    ) -> Scored:
        """Score all rows at once; with groups each, of which the unweighted mean counts.

        Papers average over test sets so.

        Args:
            rows: The split; its groups are in the column ``group``.
            score: Scores of the rows of these numbers.
            outputs: One record per row of what the model answered.
        """
        by_group = {group: score(chosen) for group, chosen in _rows_of_groups(rows).items()}
        metrics = _mean(list(by_group.values())) if by_group else score(range(len(rows)))
        return cls(metrics=metrics, by_group=by_group, outputs=outputs)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of some rows before anything is cut.

    Attributes:
        parts: Number for each row, by what is counted: ``text``, or ``prompt`` and ``answer``.
        cut: Whether training, or asking, reads a row without some of its tokens.
        refused: Why a row cannot be learned, by its place among the rows.
    """

    parts: Mapping[str, Sequence[int]]
    cut: Sequence[bool]
    refused: Mapping[int, str] = field(default_factory=dict)


class Kind(ABC, Generic[T]):
    """One task and one run's settings, from rows to a model's scores.

    A new kind is a subclass in a file beside this one, and a row of
    `ailora.lab.training.kinds.KINDS`; its tasks are a class in `ailora.lab.tasks.task`, with a
    loader that reads and cleans rows, and a row in `ailora.lab.tasks.registry`; settings of its
    own, if any, go into `ailora.lab.settings`. Nothing else asks of which kind a task is. What the
    subclass says, in the order in which a run asks:

    - which model is loaded: `load`, ``new_head``
    - what it reads: `settle`, `encode`, `lengths`, `collator`, ``usual_length``
    - what training watches: `monitored`, ``greater_is_better``, `scorer`
    - what it answers and scores in the end: `final`, `majority`
    - what is shown of that: the records in `Scored.outputs`, `class_names`

    Attributes:
        usual_length: Tokens kept of a row where the run does not say.
        greater_is_better: Whether the first of ``monitored`` should rise.
        step0_rows: Rows on which the start is compared with the base model.
        new_head: Whether the task puts a new head on the model, so that a base model's answers
            mean nothing.
    """

    usual_length: ClassVar[int]
    greater_is_better: ClassVar[bool] = True
    step0_rows: ClassVar[int] = 32
    new_head: ClassVar[bool] = True

    def __init__(self, task: T, config: RunConfig) -> None:
        self.task = task
        self.config = config
        self.max_length = config.max_length or self.usual_length
        self._encoded: dict[int, tuple[Dataset, Dataset]] = {}  # by id of the rows; held here

    @property
    @abstractmethod
    def monitored(self) -> tuple[str, ...]:
        """Names of the scores that are taken along the run, as Trainer has them after "eval_".

        The first decides on stopping early.
        """

    @abstractmethod
    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base model with the head that the task needs, and its tokeniser.

        Raises:
            UserError: No such model, or one that does not fit the task.
        """

    @property
    def model_name(self) -> str:
        """Name of the base model."""
        return self.config.model

    def settle(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check and set what depends on the model's config and tokeniser, before `encode`.

        Raises:
            UserError: The model does not fit the task or the settings.
        """

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokeniser, as `load` gives it, without the model.

        Raises:
            UserError: As `load`; or the model cannot read ``max_length`` tokens.
        """
        config, tokenizer = load_tokenizer(self.model_name)
        self.settle(config, tokenizer)
        check_length(self.max_length, config, tokenizer)
        return tokenizer

    @abstractmethod
    def lengths(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        learned: bool = True,
        first: int = 1,
    ) -> Lengths:
        """Tokens of some rows, counted as `encode` makes them.

        Args:
            rows: A few of them: they are held in memory.
            tokenizer: As `load_tokenizer` or `load` gives it.
            learned: Whether the rows' answers are learned or only asked for.
            first: Number of the first row in its split, for messages.

        Raises:
            UserError: As `encode`.
        """

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Rows as the model reads them: ``input_ids`` and labels, not padded."""

    def encoded(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """`encode`, once per run for the same rows: a split is evaluated more than once."""
        if id(rows) not in self._encoded:
            self._encoded[id(rows)] = (rows, self.encode(rows, tokenizer))
        return self._encoded[id(rows)][1]

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Function from encoded rows to one padded batch, with labels."""

    def scorer(self, rows: Dataset, encoded: Dataset) -> Scorer | None:
        """Scores along the run, as Trainer's ``compute_metrics``; None measures the loss alone."""
        return None

    @abstractmethod
    def final(
        self, trainer: Trainer, rows: Dataset, *, on_progress: OnCount = lambda done, of: None
    ) -> Scored:
        """Scores of the trained model on a whole split.

        Args:
            trainer: Holds the model; its callbacks hear of each batch that it predicts.
            rows: The split.
            on_progress: Called with (done, of) for what the trainer has no part in.

        Raises:
            DivergedError: The model's outputs are no longer numbers.
        """

    def majority(self) -> float | None:
        """Headline score on test of one answer to all, the commonest; None where there is none."""
        return None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by index; None where answers are no classes."""
        return None


def predict(trainer: Trainer, encoded: Dataset) -> tuple[PredictionOutput, npt.NDArray[np.int64]]:
    """What the model computes for encoded rows, without scores.

    Trainer puts rows of like length together in evaluations too, and gives predictions as they
    came. Its sampler is private, but nothing public tells the order.

    Returns:
        Predictions and labels as they came; and the row number of each, int64 (rows,).
    """
    trainer.compute_metrics = None
    sampler = trainer._get_eval_sampler(encoded.select_columns("input_ids"))
    return trainer.predict(encoded), np.fromiter(sampler, np.int64)


def in_row_order(values: _Array, order: _Array) -> _Array:
    """Predictions as they came, put back to their rows; ``order`` is `predict`'s."""
    restored = np.empty_like(values)
    restored[order] = values
    return restored


def _rows_of_groups(rows: Dataset) -> dict[str, list[int]]:
    """Row numbers of each group, in order of first appearance; empty without groups."""
    found: dict[str, list[int]] = {}
    if "group" in rows.column_names:
        for index, group in enumerate(rows["group"]):
            found.setdefault(group, []).append(index)
    return found


def _mean(scored: Sequence[Scores]) -> Scores:
    return {name: fmean(scores[name] for scores in scored) for name in scored[0]}
