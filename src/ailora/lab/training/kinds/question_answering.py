"""Extractive question answering: where in a context an answer starts and ends."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from ailora.lab.settings import RunConfig
from ailora.lab.tasks import QATask
from ailora.lab.tasks.qa.answers import (
    Found,
    QuestionScores,
    best_answers,
    best_threshold,
    score_questions,
)
from ailora.lab.tasks.qa.windows import LABELS, count_windows, make_windows
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

_Array = npt.NDArray[Any]


class QuestionAnswering(Kind[QATask]):
    """A span of the context for each question, or none where the task has such questions."""

    usual_length: ClassVar[int] = 384

    def __init__(self, task: QATask, config: RunConfig) -> None:
        super().__init__(task, config)
        self._selection_threshold: float | None = None

    @property
    def monitored(self) -> tuple[str, ...]:
        """The task's metrics, of the answers."""
        return self.task.metrics

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model with a new head; its start depends on the run's seed alone."""
        return load_pretrained(
            self.config.model,
            AutoModelForQuestionAnswering,
            seed=self.config.seed,
            num_labels=2,
        )

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """One row per window; see `ailora.lab.tasks.qa.windows.make_windows`."""
        return make_windows(
            rows, tokenizer, max_length=self.max_length, stride=self.config.doc_stride
        )

    def lengths(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        learned: bool = True,
        first: int = 1,
    ) -> Lengths:
        """Tokens of question and context without special ones, and the number of windows.

        Of a question the end may be cut; a context is read in as many windows as it needs.
        """
        found = count_windows(
            rows, tokenizer, max_length=self.max_length, stride=self.config.doc_stride
        )
        parts = {"question": found.question, "context": found.context, "windows": found.windows}
        return Lengths(parts=parts, cut=found.cut)

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Pads on the right to the longest window of the batch, whichever side is usual."""
        own = tokenizer.model_input_names

        def collate(windows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            texts = [{name: row[name] for name in own if name in row} for row in windows]
            batch = dict(tokenizer.pad(texts, padding_side="right", return_tensors="pt"))
            labels = {name: torch.tensor([row[name] for row in windows]) for name in LABELS}
            return {**batch, **labels}

        return collate

    def scorer(self, rows: Dataset, encoded: Dataset) -> Scorer:
        """Exact match and F1 of the answers at the run's null threshold."""

        def score(prediction: EvalPrediction) -> Scores:
            found = self._found(
                prediction.predictions, prediction.label_ids, rows, encoded, self._order(encoded)
            )
            return self._scores(self._said(found), rows).summary()

        return score

    def final(
        self, trainer: Trainer, rows: Dataset, *, on_progress: OnCount = lambda done, of: None
    ) -> Scored:
        """Scores of a whole split, and the answer to each question.

        Where questions may have no answer, the scores of those with and without one are given
        too. On the selection split the best null threshold is found and reported; later splits
        are scored at it as well, under names that say so.
        """
        encoded = self.encoded(rows, trainer.processing_class)
        predicted, order = predict(trainer, encoded)
        found = self._found(predicted.predictions, predicted.label_ids, rows, encoded, order)
        said = self._said(found)
        scores = self._scores(said, rows)
        scored = Scored.of(rows, scores.summary, self._outputs(said, scores, found, rows))
        if not self.task.has_unanswerable:
            return scored
        more = scores.by_answerability() | self._at_best_threshold(found, rows)
        return replace(scored, metrics=scored.metrics | more)

    def majority(self) -> float | None:
        """Answering nothing, where that can be right."""
        if not self.task.has_unanswerable:
            return None
        test = self.task.test
        return self._scores(("",) * len(test), test).summary()[self.task.metrics[0]]

    def _found(
        self, predictions: Any, labels: Any, rows: Dataset, encoded: Dataset, order: _Array
    ) -> Found:
        start_logits, end_logits = predictions[:2]  # encoder-decoders give hidden states as well
        check_finite(start_logits)
        check_finite(end_logits)
        for name, evaluated in zip(LABELS, labels, strict=True):
            if not np.array_equal(np.asarray(encoded[name][:])[order], evaluated):
                raise RuntimeError("Trainer evaluated the windows in another order than is known")
        return best_answers(
            in_row_order(start_logits, order),
            in_row_order(end_logits, order),
            encoded,
            rows["context"][:],
            n_best=self.config.n_best,
            max_answer_length=self.config.max_answer_length,
        )

    def _order(self, encoded: Dataset) -> _Array:
        """Which window each one evaluated along the run is: Trainer groups them by length."""
        batch = self.config.micro_batch_size or self.config.batch_size
        own = torch.Generator().manual_seed(self.config.seed)
        lengths = [len(tokens) for tokens in encoded["input_ids"][:]]
        return np.asarray(get_length_grouped_indices(lengths, batch, generator=own))

    def _said(self, found: Found) -> tuple[str, ...]:
        if self.task.has_unanswerable:
            return found.unless_null(self.config.null_threshold)
        return found.texts

    def _scores(self, said: tuple[str, ...], rows: Dataset) -> QuestionScores:
        return score_questions(
            said,
            rows["answers"][:],
            has_unanswerable=self.task.has_unanswerable,
            literal=self.task.literal,
        )

    def _at_best_threshold(self, found: Found, rows: Dataset) -> Scores:
        if rows is self.task.selection:
            answered = self._scores(found.texts, rows)
            self._selection_threshold = best_threshold(found.margins, answered)
            return {"best_null_threshold": self._selection_threshold}
        if self._selection_threshold is None:
            return {}
        said = found.unless_null(self._selection_threshold)
        scores = self._scores(said, rows).summary()
        return {f"{name}_at_selection_threshold": value for name, value in scores.items()}

    def _outputs(
        self, said: tuple[str, ...], scores: QuestionScores, found: Found, rows: Dataset
    ) -> tuple[dict[str, Any], ...]:
        each = zip(rows["id"], said, scores.f1.tolist(), scores.exact.tolist(), strict=True)
        answers = (
            {"id": name, "prediction": text, "f1": f1, "exact_match": exact}
            for name, text, f1, exact in each
        )
        if not self.task.has_unanswerable:
            return tuple(answers)
        # JSON has no infinity: no span was found at all.
        margins = (float(m) if math.isfinite(m) else None for m in found.margins)
        return tuple({**row, "null_margin": m} for row, m in zip(answers, margins, strict=True))
