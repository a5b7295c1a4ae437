"""Means with their spread, and differences to LoRA paired by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ailora.report.comparison import ENOUGH, Comparison, score_of

BASELINE = "lora"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One method's test score over the seeds.

    Attributes:
        method: Its name.
        n: Number of seeds.
        mean: Mean score.
        sd: Standard deviation (n - 1); None for one seed.
        rate: Learning rate of its runs.
        difference: Mean difference to LoRA with the same seed; None without LoRA.
        interval: 95 % confidence interval of that difference (Student's t); None below two pairs,
            and where all differences are equal: no spread to judge by is not certainty.
        pairs: Seeds that both have.
    """

    method: str
    n: int
    mean: float
    sd: float | None
    rate: float
    difference: float | None = None
    interval: tuple[float, float] | None = None
    pairs: int = 0

    @property
    def verdict(self) -> str:
        """What the interval carries, in words."""
        if self.difference is None:
            return ""
        if self.pairs < ENOUGH:
            return f"n = {self.pairs}: too few to conclude anything"
        if self.interval is None:
            return "all differences equal: no interval"
        if self.interval[0] <= 0 <= self.interval[1]:
            return "no difference shown"
        return "above LoRA" if self.difference > 0 else "below LoRA"


def summarize(comparison: Comparison) -> list[Summary]:
    """A summary of every method, in the comparison's order."""
    return [_summary(comparison, method) for method in comparison.methods]


def _summary(comparison: Comparison, method: str) -> Summary:
    scores = _by_seed(comparison, method)
    values = list(scores.values())
    difference, interval, pairs = None, None, 0
    if method != BASELINE and BASELINE in comparison.methods:
        base = _by_seed(comparison, BASELINE)
        paired = [scores[seed] - base[seed] for seed in scores if seed in base]
        difference = float(np.mean(paired)) if paired else None
        interval, pairs = _interval(paired), len(paired)
    return Summary(
        method=method,
        n=len(values),
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        rate=float(comparison.runs_of(method)[0]["config"]["lr"]),
        difference=difference,
        interval=interval,
        pairs=pairs,
    )


def _by_seed(comparison: Comparison, method: str) -> dict[int, float]:
    return {run["config"]["seed"]: score_of(run) for run in comparison.runs_of(method)}


def _interval(differences: list[float]) -> tuple[float, float] | None:
    # Scores are counts over rows: equal differences differ by rounding alone.
    if len(differences) < 2 or np.allclose(differences, differences[0], rtol=0, atol=1e-12):
        return None
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return float(low), float(high)
