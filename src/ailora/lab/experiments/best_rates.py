"""Each setting at its best learning rate: which rate that is, and the scores there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ailora.lab.experiments.store import Run
from ailora.lab.experiments.wording import metric_label
from ailora.lab.methods.variants import CONTROLS


def setting_of(run: Run) -> str:
    """The settings of a run without learning rate and seed, as JSON."""
    config = run["config"]
    return json.dumps(
        {name: value for name, value in config.items() if name not in ("lr", "seed")},
        sort_keys=True,
    )


def best_rates(runs: Sequence[Run]) -> dict[str, float]:
    """Each setting's rate of the best mean score on the selection split, by its headline metric.

    The test split decides nothing. A rate at which some seed failed or is missing is not chosen
    over one with all seeds; of equal rates the first is.

    Args:
        runs: Finished runs.

    Returns:
        The rate by `setting_of`.
    """
    scores: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        score = run["metrics"]["selection"][run["data"]["metric"]]
        scores.setdefault(setting_of(run), {}).setdefault(run["config"]["lr"], []).append(score)
    return {
        setting: max(by_rate, key=lambda rate: (len(by_rate[rate]), fmean(by_rate[rate])))
        for setting, by_rate in scores.items()
    }


def at_best_rates(runs: Sequence[Run], rates: Mapping[str, float] | None = None) -> tuple[Run, ...]:
    """The runs at their setting's own rate; without rates, at `best_rates` of these runs."""
    if rates is None:
        rates = best_rates(runs)
    return tuple(run for run in runs if run["config"]["lr"] == rates[setting_of(run)])


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One setting's scores by its headline metric.

    Attributes:
        config: Settings of its first run.
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
    """Names of the settings that differ between runs, except rate and seed; the method first.

    The method stands for its own settings too: `ailora.lab.methods.variants`.
    """
    unsaid = ("method", *CONTROLS, "lr", "seed")
    first = configs[0] if configs else {}
    differ = {
        name for one in configs for name, value in one.items() if first.get(name) != value
    }.union(*(first.keys() - one.keys() for one in configs))
    return ["method", *(name for name in first if name in differ and name not in unsaid)]


def _standing(runs: Sequence[Run]) -> Standing:
    metric = runs[0]["data"]["metric"]
    selection, test = (
        [run["metrics"][split][metric] for run in runs] for split in ("selection", "test")
    )
    return Standing(
        config=runs[0]["config"],
        rate=runs[0]["config"]["lr"],
        seeds=len(runs),
        metric=metric_label(runs[0]["data"]),
        selection=fmean(selection),
        test=fmean(test),
        spread=stdev(test) if len(test) > 1 else None,
    )
