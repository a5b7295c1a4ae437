"""The mean of a few numbers, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ailora.lab.statistics.scores import check_scores

Interval = tuple[float, float]

LEVEL = 0.95
_RESAMPLES = 9999
# Scores are counts over rows: what is equal but for rounding is equal.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds.

    Attributes:
        n: Number of seeds.
        mean: Mean score.
        sd: Standard deviation (n - 1); None for one seed.
        student: 95 % confidence interval of the mean by Student's t; None for one seed, and where
            all are equal: no spread to judge by is not certainty.
        bootstrap: The same by BCa bootstrap; it is too narrow for a handful of seeds.
    """

    n: int
    mean: float
    sd: float | None
    student: Interval | None
    bootstrap: Interval | None


def spread(scores: Mapping[int, float], *, what: str = "scores", seed: int = 0) -> Spread:
    """Mean, standard deviation and confidence intervals of one setting's scores.

    Args:
        scores: By seed.
        what: The setting's name, for messages.
        seed: Of the bootstrap's resamples.

    Raises:
        UserError: No score, or one that is no finite number.
    """
    check_scores(scores, what)
    values = list(scores.values())
    return Spread(
        n=len(values),
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        student=student_interval(values),
        bootstrap=bootstrap_interval(values, seed=seed),
    )


def student_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean, mean ± t_{0.975, n-1} s / sqrt(n); None where all are equal."""
    if all_equal(values):
        return None
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    return float(low), float(high)


def bootstrap_interval(values: Sequence[float], *, seed: int = 0) -> Interval | None:
    """95 % interval of the mean by the BCa bootstrap (Efron 1987); None where all are equal.

    Args:
        values: (n,) numbers.
        seed: Of the resamples.
    """
    if all_equal(values):
        return None
    found = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=LEVEL,
        method="BCa",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    # BCa has no answer where the resampled means all lie on one side of the mean.
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return None
    return float(found.low), float(found.high)


def all_equal(values: Sequence[float]) -> bool:
    """Whether there are fewer than two numbers, or they differ by rounding alone."""
    return len(values) < 2 or float(np.ptp(values)) <= _ROUNDING
