"""Points of ranges from Optuna: a study per setting, and the same end after a break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from ailora.errors import UserError
from ailora.lab.experiments import Store
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.jobs import Ended, Event, Job, Tasks, Tell
from ailora.lab.experiments.search import TRIALS, Found, Search, search_runs
from ailora.lab.experiments.sweep import Engine
from ailora.lab.training import RunConfig

RATES = {"low": 1e-4, "high": 1.0, "log": True}


class StopsAt(Here):
    """An engine that is killed before a run, as by Ctrl-C."""

    def __init__(self, tasks: Tasks, run: int) -> None:
        super().__init__(tasks)
        self.left = run

    def run(self, jobs: Sequence[Job], store: Store, tell: Tell) -> None:
        """As `Engine.run`."""
        for job in jobs:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            super().run([job], store, tell)


def settings(tiny: RunConfig, seeds: int = 2) -> list[RunConfig]:
    methods = ("lora", "ailora")
    return [replace(tiny, method=name, seed=seed) for name in methods for seed in range(seeds)]


def found_in(
    folder: Path, runs: list[RunConfig], search: Search, trials: int, engine: Engine, tasks: Tasks
) -> tuple[list[Found], list[Event]]:
    events: list[Event] = []
    found = search_runs(
        runs, search, trials, Store(folder), engine, tasks=tasks, on_event=events.append
    )
    return found, [one for one in events if isinstance(one, Ended) and not one.before]


def test_the_best_trial_is_the_one_of_the_best_mean_selection_score(
    tiny: RunConfig, tasks: Tasks, tmp_path: Path
) -> None:
    search = Search(space={"lr": RATES, "rank": [1, 2]}, pruner="NopPruner")
    runs = settings(tiny)
    found, ended = found_in(tmp_path, runs, search, 3, Here(tasks), tasks)
    assert len(found) == 2 and len(ended) == 2 * 3 * 2
    for one in found:
        assert one.tried == {"complete": 3}
        means: dict[tuple[float, int], list[float]] = {}
        for event in ended:
            config = event.job.config
            if config.method == one.config.method:
                score = event.result["metrics"]["selection"][event.result["data"]["metric"]]
                means.setdefault((config.lr, config.rank), []).append(score)
        assert one.best is not None and len(one.runs) == 2
        best = means[one.best["lr"], one.best["rank"]]
        assert sum(best) == max(map(sum, means.values()))
        assert {run["config"]["seed"] for run in one.runs} == {0, 1}
        assert all(f"{lr:.3g}" == f"{lr:g}" for lr, _ in means)
    # Asked again there is nothing to do, and what is found is the same.
    again, ended = found_in(tmp_path, runs, search, 3, StopsAt(tasks, 0), tasks)
    assert ended == [] and [one.best for one in again] == [one.best for one in found]


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "QMCSampler"])
def test_a_search_that_was_broken_off_goes_on_to_the_same_end(
    sampler: str, tiny: RunConfig, tasks: Tasks, tmp_path: Path
) -> None:
    search = Search(space={"lr": RATES}, sampler=sampler)
    runs = settings(tiny, seeds=1)[:1]
    whole, _ = found_in(tmp_path / "whole", runs, search, 5, Here(tasks), tasks)
    for stop in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            found_in(tmp_path / "broken", runs, search, 5, StopsAt(tasks, stop), tasks)
    ended, _ = found_in(tmp_path / "broken", runs, search, 5, Here(tasks), tasks)
    assert ended[0].best == whole[0].best and ended[0].tried == whole[0].tried
    names = [{path.parent.name for path in tmp_path.glob(f"{way}/*/result.json")}
             for way in ("whole", "broken")]  # fmt: skip
    assert names[0] == names[1] and len(names[0]) == 5


def test_a_pruned_trial_is_not_tried_with_the_other_seeds(
    tiny: RunConfig, tasks: Tasks, tmp_path: Path
) -> None:
    pruner = {"name": "ThresholdPruner", "lower": 2.0}  # no accuracy is above 1
    search = Search(space={"lr": RATES}, pruner=pruner)
    found, ended = found_in(tmp_path, settings(tiny)[:2], search, 2, Here(tasks), tasks)
    assert found[0].tried == {"pruned": 2} and found[0].best is None
    assert {event.job.config.seed for event in ended} == {0}


def test_trials_are_optunas_own_in_its_storage(
    tiny: RunConfig, tasks: Tasks, tmp_path: Path
) -> None:
    search = Search(space={"lr": RATES}, storage=f"sqlite:///{tmp_path / 'trials.db'}")
    found_in(tmp_path / "runs", settings(tiny, seeds=1)[:1], search, 2, Here(tasks), tasks)
    (name,) = optuna.get_all_study_names(search.storage)
    study = optuna.load_study(study_name=name, storage=search.storage)
    assert len(study.trials) == 2 and study.direction.name == "MAXIMIZE"
    assert not (tmp_path / "runs" / TRIALS).exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"^\[search\] space: give ranges"),
        ({"space": {"lr": 1e-3}}, r"^\[search.space\] lr=0.001: give a list of values, or low"),
        ({"space": {"lr": {"low": 1.0, "high": 0.1}}}, r"^\[search.space\] lr="),
        ({"space": {"lr": {"low": -1.0, "high": 0.1}}}, r"lr.low=-1.0: must be above 0"),
        ({"space": {"task": {"low": 1, "high": 2}}}, "not a number; give a list"),
        ({"space": {"lrr": [1e-3]}}, "did you mean"),
        ({"space": {"seed": [1]}}, "give seeds in"),
        ({"space": {"lr": [1e-3]}, "sampler": "os"}, "must be one of .*TPESampler"),
        ({"space": {"lr": [1e-3]}, "pruner": {"name": "MedianPruner", "x": 1}}, "cannot be made"),
        ({"space": {"lr": [1e-3]}, "batch": 0}, "batch=0: must be"),
        ({"space": {"lr": [1e-3]}, "points": 3}, "points"),
        ([], "must be a table"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(table: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Search.of(table)
    assert "\n" not in str(caught.value)


def test_what_stands_in_the_grid_cannot_be_searched(
    tiny: RunConfig, tasks: Tasks, tmp_path: Path
) -> None:
    runs = [replace(tiny, lr=lr) for lr in (1e-3, 2e-3)]
    with pytest.raises(UserError, match=r"'lr' stands in \[grid\] and in \[search.space\]"):
        search_runs(runs, Search(space={"lr": RATES}), 2, Store(tmp_path), Here(tasks))
