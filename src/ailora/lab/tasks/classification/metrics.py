"""Scores by name, from scikit-learn and scipy, with the undefined cases decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn import metrics as sk

from ailora.errors import UserError, instead

_Array = npt.NDArray[Any]


def _accuracy(predicted: _Array, labels: _Array, classes: int, positive: int) -> float:
    return float(sk.accuracy_score(labels, predicted))


def _f1(predicted: _Array, labels: _Array, classes: int, positive: int) -> float:
    average = "binary" if classes == 2 else "macro"
    options = {"average": average, "pos_label": positive, "zero_division": 0.0}
    return float(sk.f1_score(labels, predicted, **options))


def _mcc(predicted: _Array, labels: _Array, classes: int, positive: int) -> float:
    if _is_constant(predicted) or _is_constant(labels):
        return 0.0  # scikit-learn's answer too, but it warns where both are the same one class
    return float(sk.matthews_corrcoef(labels, predicted))


def _pearson(predicted: _Array, labels: _Array) -> float:
    return _correlation(stats.pearsonr, predicted, labels)


def _spearman(predicted: _Array, labels: _Array) -> float:
    return _correlation(stats.spearmanr, predicted, labels)


def _correlation(function: Callable[..., Any], predicted: _Array, labels: _Array) -> float:
    # A constant has no correlation. It knows nothing of the order of the rows, as a value
    # independent of them does, so it scores the same: 0.
    if _is_constant(predicted) or _is_constant(labels):
        return 0.0
    return float(function(predicted, labels).statistic)


def _is_constant(values: _Array) -> bool:
    return bool(np.ptp(values) == 0)


CLASSIFICATION: dict[str, Callable[[_Array, _Array, int, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
}
REGRESSION: dict[str, Callable[[_Array, _Array], float]] = {
    "pearson": _pearson,
    "spearman": _spearman,
}
METRICS = (*CLASSIFICATION, *REGRESSION)


def metric_names(names: Sequence[str] | None, *, regression: bool) -> tuple[str, ...]:
    """Return the names given, or all of that kind of task; the first is the headline.

    Raises:
        UserError: A name is no metric of that kind; the message has the nearest.
    """
    if names is None:
        return tuple(REGRESSION if regression else CLASSIFICATION)
    chosen = (names,) if isinstance(names, str) else tuple(names)
    _check_names(chosen, regression=regression)
    return chosen


def _check_names(names: Sequence[str], *, regression: bool) -> None:
    known = list(REGRESSION if regression else CLASSIFICATION)
    kind = "regression" if regression else "classification"
    if not names:
        raise UserError(f"no metric named; for {kind} there are {', '.join(known)}")
    for name in names:
        if name not in known:
            raise UserError(f"no {kind} metric is called {name!r}: {instead(name, known)}")


def compute(
    names: Sequence[str], predictions: _Array, labels: _Array, *, positive: int = 1
) -> dict[str, float]:
    """Return each named score, in the order of ``names``.

    Args:
        names: ``accuracy``, ``f1`` (of one class where there are two, else the mean over
            classes), ``mcc``; or ``pearson``, ``spearman``. Constant predictions or labels score 0
            in mcc, pearson and spearman, where the formula is 0/0.
        predictions: Logits (n, classes) for classification; values (n,) or (n, 1) for regression.
        labels: Class indices (n,) or numbers (n,).
        positive: Index of the class that the f1 of two classes is of.

    Raises:
        UserError: Unknown name, no rows, shapes that do not fit, or NaN or Inf among the
            predictions (training diverged).
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    regression = predictions.ndim == 1 or predictions.shape[-1] == 1
    _check_names(names, regression=regression)
    _check_values(predictions, labels)
    if regression:
        values = predictions.reshape(len(labels)).astype(np.float64)
        targets = labels.astype(np.float64)
        return {name: REGRESSION[name](values, targets) for name in names}
    chosen, classes = predictions.argmax(axis=-1), predictions.shape[-1]
    return {name: CLASSIFICATION[name](chosen, labels, classes, positive) for name in names}


def _check_values(predictions: _Array, labels: _Array) -> None:
    shapes = f"predictions {predictions.shape}, labels {labels.shape}"
    if predictions.ndim > 2 or labels.ndim != 1 or len(predictions) != len(labels):
        raise UserError(f"expected (n, classes) or (n,) against (n,), got {shapes}")
    if labels.size == 0:
        raise UserError("no rows to score: an empty split")
    broken = int(np.count_nonzero(~np.isfinite(predictions.astype(np.float64))))
    if broken:
        raise UserError(
            f"{broken} of {predictions.size} predictions are NaN or infinite: training diverged; "
            "lower the learning rate"
        )
