"""Scores by setting and seed: means with their spread, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ailora.errors import UserError
from ailora.lab.statistics.differences import seed_difference

Scores = Mapping[str, Mapping[int, float]]  # setting -> seed -> score
Interval = tuple[float, float]

ENOUGH = 5  # seeds (or tasks) below which nothing is concluded
_LEVEL = 0.95
_RESAMPLES = 9999  # random choices of signs; with up to 13 pairs all choices are counted
_DIGITS = 12  # differences that only rounding keeps apart are ties


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds.

    Attributes:
        n: Number of seeds.
        mean: Mean score.
        sd: Standard deviation (n - 1); None for one seed.
    """

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One setting against the baseline, over the seeds that both have.

    Attributes:
        baseline: Name of the baseline.
        n: Number of pairs.
        difference: Mean of setting minus baseline; None without pairs.
        student: 95 % confidence interval of it by Student's t; None below two pairs, and where
            all differences are equal: no spread to judge by is not certainty.
        permutation_p: Two-sided p of the mean under random signs; None below `ENOUGH` pairs.
    """

    baseline: str
    n: int
    difference: float | None
    student: Interval | None
    permutation_p: float | None

    @property
    def smallest_p(self) -> float:
        """The least p that so many pairs can give, 2 / 2^n: 0.0625 for five."""
        return min(1.0, 2.0 / 2.0**self.n)

    def verdict(self, name: str) -> str:
        """What can be concluded from the pairs, in words.

        Args:
            name: The baseline's name, as it is to be written.
        """
        if self.difference is None or self.n < ENOUGH:
            return f"n = {self.n}: too few to conclude anything"
        if self.student is None:
            return "all differences equal: no interval"
        if self.student[0] <= 0 <= self.student[1]:
            return "no difference shown"
        return f"above {name}" if self.difference > 0 else f"below {name}"


def spread(scores: Mapping[int, float], *, what: str = "scores") -> Spread:
    """Mean and standard deviation of one setting's scores.

    Args:
        scores: Score by seed.
        what: Name of the setting, for messages.

    Raises:
        UserError: No score, or one that is no finite number.
    """
    _check_scores(scores, what)
    values = list(scores.values())
    return Spread(
        n=len(values),
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def paired(scores: Scores, baseline: str, *, seed: int = 0) -> dict[str, Paired]:
    """Every other setting's difference to the baseline.

    Args:
        scores: Scores by setting and seed.
        baseline: Name of a setting.
        seed: Seed of the random signs.

    Returns:
        Differences by setting, in the order given, without the baseline.

    Raises:
        UserError: No such baseline, a setting without scores, or a score that is no finite number.
    """
    if baseline not in scores:
        raise UserError(f"no scores of {baseline!r}; there are {', '.join(scores) or 'none'}")
    for name, own in scores.items():
        _check_scores(own, name)
    return {name: _pair(scores, name, baseline, seed) for name in scores if name != baseline}


def student_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean, mean ± t_{0.975, n-1} s / sqrt(n).

    Returns:
        None for fewer than two numbers, and where they differ by rounding alone.
    """
    found = seed_difference(values)
    return found.interval(_LEVEL) if found else None


def _check_scores(scores: Mapping[int, float], what: str) -> None:
    """Raise a UserError unless there are scores and all are finite numbers."""
    if not scores:
        raise UserError(f"{what}: no scores; finish at least one run")
    for seed, score in scores.items():
        if not math.isfinite(score):
            raise UserError(
                f"{what}, seed {seed}: its score is {score}; leave the run out or run it again"
            )


def _pair(scores: Scores, name: str, baseline: str, seed: int) -> Paired:
    own, base = scores[name], scores[baseline]
    differences = [own[number] - base[number] for number in sorted(own.keys() & base.keys())]
    return Paired(
        baseline=baseline,
        n=len(differences),
        difference=float(np.mean(differences)) if differences else None,
        student=student_interval(differences),
        permutation_p=_permutation(differences, seed) if len(differences) >= ENOUGH else None,
    )


def _permutation(differences: Sequence[float], seed: int) -> float:
    found = stats.permutation_test(
        (np.asarray([round(value, _DIGITS) for value in differences], dtype=np.float64),),
        np.mean,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)
