"""Settings at their own best rates: differences to a baseline, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from ailora.lab.experiments.wording import counted
from ailora.lab.report.row_scores import row_scores
from ailora.lab.statistics import (
    ENOUGH,
    Difference,
    detectable,
    holm,
    seed_and_row_difference,
    seed_difference,
)

LEVEL, POWER = 0.05, 0.8


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One run's score on a split.

    Attributes:
        score: The headline score.
        rows: What each row, or block of rows, adds to the score, which is their mean
            (`ailora.lab.report.row_scores`); None where nothing is kept of single rows.
    """

    score: float
    rows: npt.NDArray[np.float64] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Against:
    """One setting minus the baseline, over the seeds that both have.

    Attributes:
        baseline: Label of the baseline.
        n: Number of seeds.
        estimate: Mean difference; None without a common seed.
        seeds: Over seeds alone; None where they give no interval.
        both: Over seeds and rows together; None where rows are not kept, too.
        comparisons: How many differences are corrected together.
        corrected: p with Holm's correction, of ``both`` where there is one, else of ``seeds``;
            None where there is neither.
    """

    baseline: str
    n: int
    estimate: float | None
    seeds: Difference | None
    both: Difference | None
    comparisons: int
    corrected: float | None

    @property
    def judged(self) -> Difference | None:
        """The difference that the verdict is of."""
        return self.both or self.seeds

    @property
    def smallest(self) -> float | None:
        """The true difference that would have been found with 80 % power.

        It is at the level of Holm's strictest step, 5 % over the number of comparisons.
        """
        one = self.judged
        return one.smallest(LEVEL / self.comparisons, POWER) if one else None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: p at most 5 % after correction, from enough seeds."""
        return self.n >= ENOUGH and self.corrected is not None and self.corrected <= LEVEL

    @property
    def verdict(self) -> str:
        """What can be concluded, in words."""
        if self.n < ENOUGH:
            return f"{counted(self.n, 'seed')}: too few to conclude anything"
        if self.corrected is None or self.estimate is None:
            return "all differences equal: no interval"
        if self.shown:
            return f"{'above' if self.estimate > 0 else 'below'} {self.baseline}"
        return f"no difference shown; one of {self.smallest:.3f} would have been, in 80 of 100"


def best_to_best(
    reported: Mapping[str, Mapping[int, Reported]], baseline: str
) -> dict[str, Against]:
    """Every other setting's difference to the baseline, paired by seed.

    Args:
        reported: Test scores by label and seed, each setting at its own rate.
        baseline: A label.

    Returns:
        Differences by label, in the order given, without the baseline.
    """
    base = reported[baseline]
    found = {label: _pair(own, base) for label, own in reported.items() if label != baseline}
    judged = {label: both or alone for label, (_, _, alone, both) in found.items()}
    corrected = holm({label: one.p for label, one in judged.items() if one is not None})
    return {
        label: Against(
            baseline=baseline,
            n=n,
            estimate=estimate,
            seeds=alone,
            both=both,
            comparisons=max(1, len(found)),
            corrected=corrected.get(label),
        )
        for label, (n, estimate, alone, both) in found.items()
    }


def smallest_by_seeds(comparisons: int, counts: Iterable[int]) -> dict[int, float]:
    """The smallest difference by number of seeds, in standard deviations between seeds."""
    alpha = LEVEL / max(1, comparisons)
    return {n: detectable(n - 1, alpha, POWER) / n**0.5 for n in counts}


def reported_of(run: Mapping[str, Any], folder: Path, split: str = "test") -> Reported:
    """A finished run's score on a split, with what the rows in its folder add to it.

    Args:
        run: Content of its result.json.
        folder: The run's folder.
        split: ``test`` or ``selection``.
    """
    score = float(run["metrics"][split][run["data"]["metric"]])
    return Reported(score=score, rows=row_scores(run, folder, split))


def told_apart(own: Mapping[int, Reported], base: Mapping[int, Reported]) -> bool | None:
    """Whether two settings with the same seeds differ at 5 %, uncorrected.

    By seeds and rows together; below three seeds, which allow no such test, by rows alone, and
    without rows by seeds alone.

    Returns:
        None where nothing tells: one seed of which no rows are kept.
    """
    n, _, alone, both = _pair(own, base)
    rows = _paired_rows(own, base)
    if rows and both is None:
        both = seed_difference(np.mean(rows, axis=0).tolist())
    if not rows and n < 2:
        return None
    judged = both if rows else alone
    return judged is not None and judged.p <= LEVEL


def _pair(
    own: Mapping[int, Reported], base: Mapping[int, Reported]
) -> tuple[int, float | None, Difference | None, Difference | None]:
    seeds = sorted(own.keys() & base.keys())
    if not seeds:
        return 0, None, None, None
    values = [own[seed].score - base[seed].score for seed in seeds]
    rows = _paired_rows(own, base)
    both = seed_and_row_difference(rows) if rows else None
    return len(seeds), fmean(values), seed_difference(values), both


def _paired_rows(
    own: Mapping[int, Reported], base: Mapping[int, Reported]
) -> list[npt.NDArray[np.float64]]:
    """Differences of each row by seed; none where those of a seed are not kept, or are others."""
    seeds = sorted(own.keys() & base.keys())
    rows = [
        one.rows - other.rows
        for one, other in ((own[seed], base[seed]) for seed in seeds)
        if one.rows is not None and other.rows is not None and one.rows.shape == other.rows.shape
    ]
    alike = len(rows) == len(seeds) and len({len(row) for row in rows}) == 1
    return rows if alike else []
