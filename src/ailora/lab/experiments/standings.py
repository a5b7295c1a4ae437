"""Where the settings of a sweep stand: each at its best rate, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ailora.lab.experiments.choice import at_best_rates, setting_of
from ailora.lab.experiments.store import Run


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One setting's scores by its headline metric.

    Attributes:
        config: Of its first run.
        rate: The learning rate that its mean score on the selection split chose.
        seeds: Number of runs at that rate.
        metric: Name of the score.
        selection: Mean score on the split that chose the rate.
        test: Mean score on the split that chose nothing.
        spread: Sample standard deviation of the test score; None for one run.
    """

    config: Mapping[str, Any]
    rate: float
    seeds: int
    metric: str
    selection: float
    test: float
    spread: float | None


def standings(runs: Sequence[Run]) -> list[Standing]:
    """Each setting of finished runs, in their order."""
    by_setting: dict[str, list[Run]] = {}
    for run in at_best_rates(runs):
        by_setting.setdefault(setting_of(run), []).append(run)
    return [_standing(own) for own in by_setting.values()]


def varied(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that differ between runs, beside rate and seed; the method first."""
    names = [name for name in configs[0] if name not in ("method", "lr", "seed")] if configs else []
    return ["method"] + [
        name for name in names if any(config.get(name) != configs[0][name] for config in configs)
    ]


def _standing(runs: Sequence[Run]) -> Standing:
    metric = runs[0]["data"]["metric"]
    selection, test = (
        [run["metrics"][split][metric] for run in runs] for split in ("selection", "test")
    )
    return Standing(
        config=runs[0]["config"],
        rate=runs[0]["config"]["lr"],
        seeds=len(runs),
        metric=metric,
        selection=fmean(selection),
        test=fmean(test),
        spread=stdev(test) if len(test) > 1 else None,
    )
