"""The learning rate that each setting is reported at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean

from ailora.lab.experiments.store import Run


def setting_of(run: Run) -> str:
    """What a run shares with those that differ in seed and rate alone, as JSON."""
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
