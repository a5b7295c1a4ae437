"""Classification and regression: a new head on the model, scores from its logits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from ailora.lab.tasks import TextTask, compute
from ailora.lab.tasks.classification.text import text_columns
from ailora.lab.training.kinds.base import (
    Collator,
    Kind,
    Lengths,
    OnCount,
    Scored,
    Scorer,
    Scores,
    in_row_order,
    predict,
)
from ailora.lab.training.model import load_pretrained
from ailora.lab.training.monitoring import check_finite

logger = logging.getLogger(__name__)

_Array = npt.NDArray[Any]


class Classification(Kind[TextTask]):
    """A class or a number for each text or pair of texts."""

    usual_length: ClassVar[int] = 128

    @property
    def monitored(self) -> tuple[str, ...]:
        """The task's metrics: they cost no more than the loss."""
        return self.task.metrics

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model with a new head; its start depends on the run's seed alone."""
        return load_pretrained(
            self.config.model,
            AutoModelForSequenceClassification,
            seed=self.config.seed,
            **_head(self.task),
        )

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Token ids and the label of each row."""
        found = tokenizer(*_texts(rows), truncation=True, max_length=self.max_length)
        cut = sum(bool(one.overflowing) for one in found.encodings or ())
        if cut:
            logger.warning(
                "%d of %d rows lose tokens: they have more than max_length=%d (ailora data shows "
                "which)",
                *(cut, len(rows), self.max_length),
            )
        columns = dict(found)
        columns["labels"] = list(rows["label"])
        return Dataset.from_dict(columns)

    def lengths(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        learned: bool = True,
        first: int = 1,
    ) -> Lengths:
        """Tokens of the text, or of both texts, with the special ones."""
        found = tokenizer(*_texts(rows), return_attention_mask=False, return_token_type_ids=False)
        counts = list(map(len, found["input_ids"]))
        what = "both texts" if self.task.has_pair else "text"
        return Lengths(parts={what: counts}, cut=[count > self.max_length for count in counts])

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Pads to the longest row of the batch."""
        collate: Collator = DataCollatorWithPadding(tokenizer)
        return collate

    def scorer(self, rows: Dataset, encoded: Dataset) -> Scorer:
        """The task's metrics over all rows; groups wait for the end."""

        def score(prediction: EvalPrediction) -> Scores:
            logits = _logits(prediction.predictions)
            check_finite(logits)
            return self._compute(logits, prediction.label_ids)

        return score

    def final(
        self, trainer: Trainer, rows: Dataset, *, on_progress: OnCount = lambda done, of: None
    ) -> Scored:
        """The task's metrics; each row's prediction is the class name, or the number."""
        encoded = self.encoded(rows, trainer.processing_class)
        predicted, order = predict(trainer, encoded)
        found = _logits(predicted.predictions)
        check_finite(found)
        logits = in_row_order(found, order)
        return self._scored(logits, rows, self._outputs(logits, rows))

    def majority(self) -> float | None:
        """The commonest training class for every row."""
        if self.task.labels is None:
            return None
        commonest = Counter(self.task.train["label"]).most_common(1)[0][0]
        logits = np.zeros((self.task.test.num_rows, len(self.task.labels)))
        logits[:, commonest] = 1.0
        return self._scored(logits, self.task.test).metrics[self.task.metrics[0]]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The task's labels; None for regression."""
        return self.task.labels

    def _scored(
        self, logits: _Array, rows: Dataset, outputs: tuple[dict[str, Any], ...] = ()
    ) -> Scored:
        labels = np.asarray(rows["label"][:])

        def score(chosen: Sequence[int]) -> Scores:
            return self._compute(logits[chosen], labels[chosen])

        return Scored.of(rows, score, outputs)

    def _compute(self, logits: _Array, labels: _Array) -> Scores:
        return compute(self.task.metrics, logits, labels, positive=self.task.positive_index)

    def _outputs(self, logits: _Array, rows: Dataset) -> tuple[dict[str, Any], ...]:
        labels = self.task.labels
        if labels is None:
            return tuple(
                {"label": label, "predicted": float(value)}
                for label, value in zip(rows["label"], logits.reshape(-1), strict=True)
            )
        return tuple(
            {"label": labels[label], "predicted": labels[chosen]}
            for label, chosen in zip(rows["label"], logits.argmax(axis=-1), strict=True)
        )


def _texts(rows: Dataset) -> list[list[str]]:
    return [list(rows[name]) for name in text_columns(rows)]


def _head(task: TextTask) -> dict[str, Any]:
    if task.labels is None:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(task.labels),
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: index for index, label in enumerate(task.labels)},
    }


def _logits(predictions: Any) -> _Array:
    """Encoder-decoders give their hidden states beside the logits, which come first."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
