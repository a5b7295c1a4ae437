"""Which learning rate a setting is reported at."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ailora.lab.experiments.best_rates import at_best_rates, best_rates, setting_of
from ailora.lab.experiments.sweep import Outcome


def finished(
    method: str, lr: float, seed: int, selection: float, test: float = 0.5, **others: Any
) -> dict[str, Any]:
    return {
        "config": {"method": method, "lr": lr, "seed": seed, **others},
        "data": {"metric": "f1"},
        "metrics": {
            "selection": {"accuracy": -selection, "f1": selection},
            "test": {"accuracy": test, "f1": test},
        },
    }


def by_method(runs: list[dict[str, Any]]) -> dict[str, float]:
    rates, method_of = best_rates(runs), {setting_of(run): run["config"]["method"] for run in runs}
    return {method_of[setting]: rate for setting, rate in rates.items()}


def test_each_method_gets_the_rate_of_its_own_best_mean_on_selection() -> None:
    runs = [
        finished("lora", 1e-3, 0, 0.9),
        finished("lora", 1e-3, 1, 0.5),  # mean 0.7
        finished("lora", 2e-3, 0, 0.8),
        finished("lora", 2e-3, 1, 0.8),  # mean 0.8
        finished("ailora", 1e-3, 0, 0.6),
        finished("ailora", 1e-3, 1, 0.6),
        finished("ailora", 2e-3, 0, 0.7),
        finished("ailora", 2e-3, 1, 0.4),
    ]
    assert by_method(runs) == {"lora": 2e-3, "ailora": 1e-3}


def test_each_task_and_rank_of_a_method_gets_its_own() -> None:
    runs = [
        finished("lora", rate, 0, score, task=task, rank=rank)
        for task, rank, best in (("cola", 8, 1e-3), ("cola", 4, 2e-3), ("rte", 8, 4e-3))
        for rate in (1e-3, 2e-3, 4e-3)
        for score in (0.9 if rate == best else 0.5,)
    ]
    rates = best_rates(runs)
    assert [rates[setting_of(run)] for run in runs[::3]] == [1e-3, 2e-3, 4e-3]


def test_a_setting_is_all_but_rate_and_seed_in_any_order() -> None:
    first = {"config": {"lr": 1, "seed": 0, "rank": 8, "qa": {"a": 1, "b": 2}}}
    other = {"config": {"qa": {"b": 2, "a": 1}, "rank": 8, "seed": 4, "lr": 3}}
    assert setting_of(first) == setting_of(other)
    assert setting_of(first) != setting_of({"config": {**first["config"], "rank": 4}})


def test_a_rate_with_a_failed_seed_is_not_chosen_over_a_whole_one() -> None:
    runs = [
        finished("lora", 1e-3, 0, 0.6),
        finished("lora", 1e-3, 1, 0.6),
        finished("lora", 9e-3, 0, 0.99),  # seed 1 diverged
    ]
    assert by_method(runs) == {"lora": 1e-3}
    assert by_method(runs[2:]) == {"lora": 9e-3}


def test_of_equal_rates_the_first_is_chosen() -> None:
    runs = [finished("lora", rate, 0, 0.6) for rate in (2e-3, 1e-3, 4e-3)]
    assert by_method(runs) == {"lora": 2e-3}


@pytest.mark.parametrize("case", range(20))
def test_the_choice_does_not_depend_on_test_scores(case: int) -> None:
    draw = random.Random(case)  # noqa: S311
    plan = [
        (method, rate, seed)
        for seed in (0, 1, 2)
        for rate in (1e-3, 2e-3, 4e-3)
        for method in ("lora", "ailora")
    ]
    runs = [finished(*which, draw.random(), draw.random()) for which in plan]
    chosen = best_rates(runs)
    scores = [run["metrics"]["test"] for run in runs]
    draw.shuffle(scores)
    for run, score in zip(runs, scores, strict=True):
        run["metrics"]["test"] = score
    assert best_rates(runs) == chosen


def test_other_selection_scores_would_change_the_choice() -> None:
    runs = [finished("lora", 1e-3, 0, 0.6), finished("lora", 2e-3, 0, 0.7)]
    before = best_rates(runs)
    for run in runs:
        run["metrics"]["selection"]["f1"] *= -1
    assert best_rates(runs) != before


def test_only_runs_at_the_chosen_rates_are_reported() -> None:
    runs = tuple(finished("lora", rate, seed, rate) for seed in (0, 1) for rate in (1e-3, 2e-3))
    outcome = Outcome(runs=runs, names=("a",) * len(runs), failed=(), rates=best_rates(runs))
    assert outcome.reported == (runs[1], runs[3]) == at_best_rates(runs, outcome.rates)
