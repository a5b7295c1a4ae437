"""Several tasks at once: average ranks of settings, and p-values corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ailora.errors import UserError
from ailora.lab.statistics.over_seeds import ENOUGH

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Where settings stand over tasks; rank 1 is the best, ties share the mean of their ranks.

    Attributes:
        average: Average rank by setting, best first.
        tasks: Number of tasks.
        friedman_p: p of "all settings are alike" by Friedman's test; None below `ENOUGH` tasks or
            three settings, and where all are tied.
        critical_difference: Nemenyi's at 5 %: average ranks closer than this are not told apart.
            None below `ENOUGH` tasks.
    """

    average: Mapping[str, float]
    tasks: int
    friedman_p: float | None
    critical_difference: float | None


def rank_over_tasks(means: Mapping[str, Mapping[str, float]]) -> Ranking:
    """Average ranks, Friedman's test and Nemenyi's critical difference (Demšar 2006).

    With k settings on N tasks, CD = q sqrt(k (k + 1) / (6 N)), where q is the 95 % point of the
    studentized range of k means with infinite degrees of freedom, divided by sqrt(2).

    Args:
        means: Mean score by task and setting, higher being better; each task has all settings.

    Raises:
        UserError: Fewer than two settings, or a task without one of them.
    """
    table, settings = _table(means)
    ranks = stats.rankdata(-table, axis=1)
    average = dict(zip(settings, ranks.mean(axis=0).tolist(), strict=True))
    enough = len(table) >= ENOUGH
    return Ranking(
        average=dict(sorted(average.items(), key=lambda item: item[1])),
        tasks=len(table),
        friedman_p=_friedman(table) if enough else None,
        critical_difference=_nemenyi(*table.shape) if enough else None,
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number, in Holm's way (1979).

    Sorted upwards, the i-th of m (from 0) becomes the largest of (m - j) p_j over j <= i, at
    most 1. Rejecting where the result is at most a level keeps the chance of any false rejection
    below that level, whatever the tests have to do with each other.

    Args:
        p_values: p-values by task, say; each in [0, 1].

    Returns:
        Corrected values by the same names, in the order given.

    Raises:
        UserError: A value outside [0, 1].
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise UserError(f"{name}: p = {p} is not between 0 and 1")
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def _table(
    means: Mapping[str, Mapping[str, float]],
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Tasks x settings; ties that rounding hides are ties."""
    settings = list(next(iter(means.values()), {}))
    if len(settings) < 2:
        raise UserError("ranks need at least one task with two settings or more")
    for task, scores in means.items():
        odd = sorted(scores.keys() ^ set(settings))
        if odd:
            raise UserError(f"{task}: {odd[0]!r} is not on every task; rank what is")
        if not all(math.isfinite(score) for score in scores.values()):
            raise UserError(f"{task}: a mean is no finite number; leave the task out")
    return np.round([[row[name] for name in settings] for row in means.values()], 12), settings


def _friedman(table: npt.NDArray[np.float64]) -> float | None:
    if table.shape[1] < 3 or not np.ptp(table, axis=1).any():
        return None
    return float(stats.friedmanchisquare(*table.T).pvalue)


def _nemenyi(tasks: int, settings: int) -> float:
    quantile = stats.studentized_range.ppf(1 - _LEVEL, settings, np.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(settings * (settings + 1) / (6 * tasks)))
