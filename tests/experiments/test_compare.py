"""What is run, what is chosen by which scores, and what is kept when something goes wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.experiments import CompareConfig, Outcome, compare
from ailora.experiments.compare import best_rates
from ailora.tasks import TextTask, load_task
from ailora.training import RunConfig, train
from ailora.training.measure import DivergedError


def finished(
    method: str, lr: float, seed: int, selection: float, test: float = 0.5
) -> dict[str, Any]:
    return {
        "config": {"method": method, "lr": lr, "seed": seed},
        "data": {"metric": "f1"},
        "metrics": {
            "selection": {"accuracy": -selection, "f1": selection},
            "test": {"accuracy": test, "f1": test},
        },
    }


# The plan ------------------------------------------------------------------------------------


def test_seeds_are_outermost_and_methods_innermost() -> None:
    plan = CompareConfig(methods=("lora", "ailora"), seeds=(3, 4), rates=(1e-3, 2e-3))
    assert [(run.seed, run.lr, run.method) for run in plan.runs()] == [
        (seed, rate, method)
        for seed in (3, 4)
        for rate in (1e-3, 2e-3)
        for method in ("lora", "ailora")
    ]


def test_runs_differ_in_method_seed_and_rate_alone() -> None:
    common = RunConfig(rank=4, epochs=1, limit=10)
    for run in CompareConfig(common=common).runs():
        assert replace(run, method=common.method, seed=common.seed, lr=common.lr) == common


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ()}, "methods"),
        ({"methods": ("lora", "lora")}, "methods"),
        ({"methods": ("lora", "ailorra")}, "did you mean 'ailora'"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"rates": ()}, "rates"),
        ({"rates": (1e-3, 0.001)}, "rates"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        CompareConfig(**changes)


# The choice ----------------------------------------------------------------------------------


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
    assert best_rates(runs) == {"lora": 2e-3, "ailora": 1e-3}


def test_a_rate_with_a_failed_seed_is_not_chosen_over_a_whole_one() -> None:
    runs = [
        finished("lora", 1e-3, 0, 0.6),
        finished("lora", 1e-3, 1, 0.6),
        finished("lora", 9e-3, 0, 0.99),  # seed 1 diverged
    ]
    assert best_rates(runs) == {"lora": 1e-3}
    assert best_rates(runs[2:]) == {"lora": 9e-3}


def test_of_equal_rates_the_first_is_chosen() -> None:
    runs = [finished("lora", rate, 0, 0.6) for rate in (2e-3, 1e-3, 4e-3)]
    assert best_rates(runs) == {"lora": 2e-3}


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
    outcome = Outcome(runs=runs, failed=(), rate_of=best_rates(runs))
    assert outcome.reported == (runs[1], runs[3])


# Running it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tiny_model: Path, reviews: Path) -> CompareConfig:
    common = RunConfig(model=str(tiny_model), task=str(reviews), rank=2, epochs=1, batch_size=8)
    return CompareConfig(methods=("lora", "ailora"), seeds=(0,), rates=(1e-2, 2e-2), common=common)


@pytest.fixture(scope="module")
def task(plan: CompareConfig) -> TextTask:
    return load_task(plan.common.task, **plan.common.task_options())


def breaking(
    monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> Callable[..., dict[str, Any]]:
    """`train`, but its n-th call (from 0) raises."""
    calls = iter(range(100))

    def stub(*args: Any, **kwargs: Any) -> dict[str, Any]:
        if next(calls) == at:
            raise error
        return train(*args, **kwargs)

    monkeypatch.setitem(compare.__globals__, "train", stub)
    return stub


def test_what_is_finished_is_not_run_again(
    plan: CompareConfig, task: TextTask, tmp_path: Path
) -> None:
    steps: list[int] = []
    first = compare(plan, task, tmp_path, on_progress=lambda *told: steps.append(told[0]))
    assert sorted(set(steps)) == [0, 1, 2, 3]
    assert len(list(tmp_path.glob("*/result.json"))) == 4
    assert first.rate_of.keys() == {"lora", "ailora"}
    steps.clear()
    shown: list[dict[str, Any]] = []
    second = compare(
        plan,
        task,
        tmp_path,
        on_progress=lambda *told: steps.append(told[0]),
        on_finish=shown.append,
    )
    assert steps == []
    assert second == first
    assert shown == list(second.runs)


@pytest.mark.parametrize(
    "error",
    [
        DivergedError("training diverged: the loss is nan"),
        RuntimeError("out of memory\nat 0x0"),
        MemoryError(),
    ],
    ids=["diverged", "runtime", "memory"],
)
def test_a_failed_run_is_kept_with_its_reason_and_the_others_go_on(
    error: Exception,
    plan: CompareConfig,
    task: TextTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaking(monkeypatch, 1, error)
    outcome = compare(plan, task, tmp_path)
    assert len(outcome.runs) == 3
    (failed,) = outcome.failed
    assert failed["config"] == asdict(list(plan.runs())[1])
    assert failed["error"] in (str(error).split("\n")[0], "MemoryError")
    assert outcome.rate_of["ailora"] == 2e-2, "the rate that failed is not to be chosen"


def test_a_rate_that_really_diverges_is_a_failed_run(
    plan: CompareConfig, task: TextTask, tmp_path: Path
) -> None:
    outcome = compare(replace(plan, rates=(1e-2, 1e30)), task, tmp_path)
    assert [run["config"]["lr"] for run in outcome.failed] == [1e30, 1e30]
    assert all("training diverged" in run["error"] for run in outcome.failed)
    assert outcome.rate_of == {"lora": 1e-2, "ailora": 1e-2}


def test_bad_input_stops_the_comparison_and_leaves_nothing(
    plan: CompareConfig, task: TextTask, tmp_path: Path
) -> None:
    wrong = replace(plan, common=replace(plan.common, rank=33))
    with pytest.raises(UserError, match="r=33"):
        compare(wrong, task, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interruption_leaves_the_finished_runs_whole(
    plan: CompareConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        breaking(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            compare(plan, task, tmp_path)
    done = {path: path.read_bytes() for path in tmp_path.glob("*/result.json")}
    assert len(done) == 2
    indices: list[int] = []
    outcome = compare(plan, task, tmp_path, on_progress=lambda *told: indices.append(told[0]))
    assert set(indices) == {2, 3}
    assert len(outcome.runs) == 4
    assert all(path.read_bytes() == content for path, content in done.items())
