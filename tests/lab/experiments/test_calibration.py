"""Which layout is chosen by what was measured, and how long runs are said to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.experiments import calibration
from ailora.lab.experiments.calibration import (
    Calibration,
    Cost,
    Layout,
    find_costs,
    find_layout,
    given_layout,
    kind,
    mean,
    measure,
    seconds,
)
from ailora.lab.experiments.jobs import Job, Rows, Tasks
from ailora.lab.training import RunConfig

COST = Cost(setup=0, step=1, row=0, memory=10)
ROWS = Rows(100, 30, 50)


def job(**changes: Any) -> Job:
    return Job(config=RunConfig(**changes), run_id="x", rows=ROWS)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "cores", lambda: 8)
    monkeypatch.setattr(calibration, "available", lambda: 1000)


def measuring(
    step_by_workers: dict[int, float | None], asked: list[tuple[int, int]]
) -> Callable[[Sequence[Job], int], Cost | None]:
    def measured(jobs: Sequence[Job], threads: int) -> Cost | None:
        asked.append((len(jobs), threads))
        step = step_by_workers[len(jobs)]
        return None if step is None else replace(COST, step=step)

    return measured


@pytest.mark.parametrize(
    ("steps", "chosen", "asked"),
    [
        ({1: 1, 2: 1, 4: 1, 8: 1}, Layout(8, 1), 4),  # each as fast as one alone
        ({1: 1, 2: 1.5, 4: 2.5, 8: 6}, Layout(4, 2), 4),
        ({1: 1, 2: 1.95}, Layout(1, 8), 2),  # 2.5 % are not worth another's memory
        ({1: 1, 2: 1, 4: None}, Layout(2, 4), 3),  # four at once fail
    ],
)
def test_workers_are_doubled_as_long_as_that_pays(
    steps: dict[int, float | None], chosen: Layout, asked: int
) -> None:
    calls: list[tuple[int, int]] = []
    known = Calibration(8)
    many = [job(seed=seed) for seed in range(20)]
    assert find_layout(many, known, measuring(steps, calls)) == chosen
    assert calls == [(1, 8), (2, 4), (4, 2), (8, 1)][:asked]
    (cost,) = known.costs.values()
    assert cost.step == steps[chosen.workers], "the cost is of the layout that is used"
    assert find_layout(many, known, measuring({}, calls)) == chosen, "remembered"


def test_memory_and_the_number_of_runs_bound_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    as_fast: dict[int, float | None] = dict.fromkeys((1, 2, 4, 8), 1.0)
    three = [job(seed=seed) for seed in range(3)]
    assert find_layout(three, Calibration(8), measuring(as_fast, [])) == Layout(2, 4)
    monkeypatch.setattr(calibration, "available", lambda: 45)
    many = [job(seed=seed) for seed in range(20)]
    assert find_layout(many, Calibration(8), measuring(as_fast, [])) == Layout(4, 2)


def test_one_run_has_all_cores_and_nothing_is_measured() -> None:
    calls: list[tuple[int, int]] = []
    assert find_layout([job()], Calibration(8), measuring({}, calls)) == Layout(1, 8)
    assert calls == []


def test_what_cannot_be_measured_is_passed_over() -> None:
    calls: list[tuple[int, int]] = []
    many = [job(seed=0), job(seed=1)]
    assert find_layout(many, Calibration(8), measuring({1: None}, calls)) == Layout(1, 8)
    assert find_costs(many, Calibration(8), Layout(1, 8), measuring({1: None}, calls)) == {}


@pytest.mark.parametrize(
    ("given", "layout"),
    [
        ((None, None), None),
        ((2, None), Layout(2, 4)),
        ((None, 4), Layout(2, 4)),
        ((3, 5), Layout(3, 5)),
        ((16, None), Layout(16, 1)),
        ((None, 16), Layout(1, 16)),
    ],
)
def test_given_numbers_share_out_the_cores(
    given: tuple[int | None, int | None], layout: Layout | None
) -> None:
    assert given_layout(*given) == layout


def test_each_kind_of_run_is_measured_once_for_a_layout() -> None:
    calls: list[tuple[int, int]] = []
    known, layout = Calibration(8), Layout(2, 4)
    jobs = [job(), job(lr=1), job(task="cola"), job(method="lora", batch_size=8)]
    found = find_costs(jobs, known, layout, measuring({2: 3}, calls))
    assert set(found) == {kind(jobs[0].config), kind(jobs[2].config), kind(jobs[3].config)}
    assert calls == [(2, 4)] * 3
    find_costs(jobs, known, layout, measuring({2: 3}, calls))
    assert len(calls) == 3
    find_costs(jobs, known, Layout(1, 8), measuring({1: 3}, calls))
    assert len(calls) == 6, "alone a run costs something else"


def test_what_was_measured_is_remembered_for_this_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Calibration(8, {"a": Layout(2, 4)}, {"2 x 4 a": COST})
    assert Calibration.read(tmp_path) == Calibration(8)
    known.write(tmp_path)
    assert Calibration.read(tmp_path) == known
    monkeypatch.setattr(calibration, "cores", lambda: 4)
    assert Calibration.read(tmp_path) == Calibration(4)
    for broken in ("", "[]", "{}", '{"cores": 4, "layouts": {"a": 3}, "costs": {}}'):
        (tmp_path / "calibration.json").write_text(broken)
        assert Calibration.read(tmp_path) == Calibration(4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 7 batches of 16 an epoch, 2 epochs; the start, 2 evaluations of 30, and 50 at the end
        ({}, 100 + 14 * 2 + (3 * 30 + 50) * 0.5),
        ({"epochs": 0.5, "batch_size": 32}, 100 + 2 * 2 + (2 * 30 + 50) * 0.5),
        ({"evaluations": 4, "monitor_rows": 10}, 100 + 14 * 2 + (5 * 10 + 80) * 0.5),
        ({"monitor_rows": 1000}, 100 + 14 * 2 + (3 * 30 + 50) * 0.5),
        ({"early_stopping": 1}, 100 + 14 * 2 + (3 * 30 + 80) * 0.5),
    ],
)
def test_how_long_a_run_takes(changes: dict[str, Any], expected: float) -> None:
    assert seconds(job(**changes), Cost(setup=100, step=2, row=0.5, memory=1)) == expected


def test_the_mean_of_costs_and_the_most_of_memory() -> None:
    costs = [Cost(setup=1, step=2, row=3, memory=4), Cost(setup=3, step=4, row=5, memory=6)]
    assert mean(costs) == Cost(setup=2, step=3, row=4, memory=6)


def test_a_small_run_is_measured_and_leaves_nothing(
    tiny: RunConfig, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cost = measure(replace(tiny, epochs=50, early_stopping=3, monitor_rows=2))
    assert list(tmp_path.iterdir()) == []
    assert min(cost.setup, cost.step, cost.row) > 0
    assert cost.memory > 100 * 2**20
    there = tasks.job(tiny)
    assert 0 < seconds(there, cost) < 60
