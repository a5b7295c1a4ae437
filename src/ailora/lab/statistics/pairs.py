"""Differences to a baseline, each between two runs with one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ailora.lab.statistics.scores import ENOUGH, Scores, check_known, check_scores
from ailora.lab.statistics.spread import Interval, bootstrap_interval, student_interval

_RESAMPLES = 9999  # of signs; up to 13 pairs all of them are gone through
_DIGITS = 12  # differences that rounding alone keeps apart are ties


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One setting against the baseline, over the seeds that both have.

    Attributes:
        setting: Its name.
        baseline: The baseline's.
        n: Pairs.
        unpaired: Seeds that only one of the two has; they do not count.
        difference: Mean of setting minus baseline; None without pairs.
        student: 95 % confidence interval of it by Student's t; None below two pairs, and where
            all differences are equal.
        bootstrap: The same by BCa bootstrap.
        wilcoxon_p: Two-sided p of the signed-rank test; None below `ENOUGH` pairs.
        permutation_p: Two-sided p of the mean under random signs; None likewise.
    """

    setting: str
    baseline: str
    n: int
    unpaired: tuple[int, ...]
    difference: float | None
    student: Interval | None
    bootstrap: Interval | None
    wilcoxon_p: float | None
    permutation_p: float | None

    @property
    def smallest_p(self) -> float:
        """The least either test can give with so many pairs, 2 / 2^n: 0.0625 for five seeds."""
        return min(1.0, 2.0 / 2.0**self.n)

    def verdict(self, name: str) -> str:
        """What the pairs carry, in words.

        Args:
            name: The baseline's, as it is to be written.
        """
        if self.difference is None or self.n < ENOUGH:
            return f"n = {self.n}: too few to conclude anything"
        if self.student is None:
            return "all differences equal: no interval"
        if self.student[0] <= 0 <= self.student[1]:
            return "no difference shown"
        return f"above {name}" if self.difference > 0 else f"below {name}"


def paired(scores: Scores, baseline: str, *, seed: int = 0) -> dict[str, Paired]:
    """Every other setting's difference to the baseline.

    Args:
        scores: By setting and seed.
        baseline: Name of a setting.
        seed: Of the bootstrap's resamples and of the random signs.

    Returns:
        By setting, in the order given, without the baseline.

    Raises:
        UserError: No such baseline, a setting without scores, or a score that is no finite number.
    """
    check_known(baseline, scores)
    for name, own in scores.items():
        check_scores(own, name)
    return {name: _pair(scores, name, baseline, seed) for name in scores if name != baseline}


def _pair(scores: Scores, name: str, baseline: str, seed: int) -> Paired:
    own, base = scores[name], scores[baseline]
    differences = [own[number] - base[number] for number in sorted(own.keys() & base.keys())]
    enough = len(differences) >= ENOUGH
    return Paired(
        setting=name,
        baseline=baseline,
        n=len(differences),
        unpaired=tuple(sorted(own.keys() ^ base.keys())),
        difference=float(np.mean(differences)) if differences else None,
        student=student_interval(differences),
        bootstrap=bootstrap_interval(differences, seed=seed),
        wilcoxon_p=_wilcoxon(differences) if enough else None,
        permutation_p=_permutation(differences, seed) if enough else None,
    )


def _wilcoxon(differences: Sequence[float]) -> float:
    rounded = _rounded(differences)
    return float(stats.wilcoxon(rounded).pvalue) if rounded.any() else 1.0


def _permutation(differences: Sequence[float], seed: int) -> float:
    found = stats.permutation_test(
        (_rounded(differences),),
        np.mean,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _rounded(differences: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray([round(value, _DIGITS) for value in differences], dtype=np.float64)
