"""Means with their spread, and differences to LoRA paired by seed."""

from __future__ import annotations

from dataclasses import dataclass

from ailora.lab.report.comparison import Comparison, score_of
from ailora.lab.statistics import Paired, Spread, paired, spread

BASELINE = "lora"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One method's test score over the seeds.

    Attributes:
        method: Its name.
        spread: Mean, standard deviation and number of seeds.
        rate: Learning rate of its runs.
        paired: Against LoRA with the same seeds; None for LoRA itself and where it has no runs.
    """

    method: str
    spread: Spread
    rate: float
    paired: Paired | None = None

    @property
    def verdict(self) -> str:
        """What the difference to LoRA carries, in words."""
        return "" if self.paired is None else self.paired.verdict("LoRA")


def summarize(comparison: Comparison) -> list[Summary]:
    """A summary of every method, in the comparison's order."""
    scores = {method: _by_seed(comparison, method) for method in comparison.methods}
    against = paired(scores, BASELINE) if BASELINE in scores else {}
    return [
        Summary(
            method=method,
            spread=spread(own, what=method),
            rate=float(comparison.runs_of(method)[0]["config"]["lr"]),
            paired=against.get(method),
        )
        for method, own in scores.items()
    ]


def _by_seed(comparison: Comparison, method: str) -> dict[int, float]:
    return {run["config"]["seed"]: score_of(run) for run in comparison.runs_of(method)}
