"""Measurements of a model on rows: logits, scores, and how far step 0 is from the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase

from ailora.errors import UserError
from ailora.tasks import TextTask, compute


class DivergedError(UserError):
    """Training ended in NaN or infinity."""


def scorer(task: TextTask) -> Callable[[EvalPrediction], dict[str, float]]:
    """The task's metrics as Trainer's ``compute_metrics``; DivergedError for outputs not finite."""

    def score(prediction: EvalPrediction) -> dict[str, float]:
        logits = _logits(prediction.predictions)
        if not np.isfinite(logits).all():
            raise DivergedError(
                "training diverged: the model's outputs are not finite; lower the learning rate"
            )
        return compute(task.metrics, logits, prediction.label_ids)

    return score


def majority_score(task: TextTask) -> float | None:
    """Headline score on test of always answering the commonest training class."""
    if task.labels is None:
        return None
    commonest = Counter(task.train["label"]).most_common(1)[0][0]
    logits = np.zeros((task.test.num_rows, len(task.labels)))
    logits[:, commonest] = 1.0
    return compute(task.metrics, logits, np.asarray(task.test["label"]))[task.metrics[0]]


@torch.no_grad()
def logits_on(model: nn.Module, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Logits in evaluation mode for a few rows, as one batch; the mode is restored."""
    collate = DataCollatorWithPadding(tokenizer)
    batch = collate(list(rows)).to(next(model.parameters()).device)
    batch.pop("labels")
    training = model.training
    model.eval()
    logits: Tensor = model(**batch).logits
    model.train(training)
    return logits


def _logits(predictions: Any) -> npt.NDArray[Any]:
    """Encoder-decoders give their hidden states beside the logits, which come first."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
