"""What a folder of runs says about each of them."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.experiments import Store
from ailora.lab.experiments.store import Failure
from ailora.lab.training import RunConfig
from ailora.lab.training.folder import FAILED, RunFolder
from ailora.lock import LOCK, LockedError, held

CONFIG = asdict(RunConfig(rank=4))
SCORES = {"accuracy": 0.5}
RESULT = {
    "config": CONFIG,
    "data": {"metric": "accuracy"},
    "metrics": {"selection": SCORES, "test": SCORES},
}
SPOILED = {
    "no metric": RESULT | {"metrics": {"selection": SCORES, "test": {}}},
    "a text for a score": RESULT | {"metrics": {"selection": SCORES, "test": {"accuracy": "high"}}},
    "a score that is NaN": RESULT
    | {"metrics": {"selection": {"accuracy": math.nan}, "test": SCORES}},
    "true for a score": RESULT | {"metrics": {"selection": SCORES, "test": {"accuracy": True}}},
    "no scores": {"config": CONFIG, "data": {"metric": "accuracy"}, "schema": 3},
    "scores in a list": RESULT | {"metrics": []},
    "a config that is no table": RESULT | {"config": "lora"},
    "a rate in words": RESULT | {"config": CONFIG | {"lr": "fast"}},
    "no data": {"config": CONFIG, "metrics": RESULT["metrics"]},
    "a metric without a name": RESULT | {"data": {"metric": 1}},
    "seconds in words": RESULT | {"seconds": {"train": "long"}},
    "an empty history": RESULT | {"history": []},
    "a history of numbers": RESULT | {"history": [1]},
    "a loss in words": RESULT | {"history": [{"step": 0, "epoch": 0, "loss": "low"}]},
    "norms in words": RESULT | {"updates": [{"role": "q", "norm": "far", "relative": 1}]},
}
FAILURE = Failure(config=CONFIG, kind="memory", reason="out of memory")
ID = "lora-movies-0123456789"


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"config.json": {"config": CONFIG}, "result.json": RESULT}, "finished"),
        ({"result.json": RESULT, FAILED: asdict(FAILURE)}, "finished"),
        ({"config.json": {"config": CONFIG}}, "interrupted"),
        ({"config.json": {"config": CONFIG}, "result.json": '{"config": {'}, "interrupted"),
        ({"config.json": {"config": CONFIG}, "result.json": {"metrics": {}}}, "interrupted"),
        ({FAILED: asdict(FAILURE)}, "failed"),
        ({"config.json": {"config": CONFIG}, FAILED: asdict(FAILURE)}, "failed"),
        ({"config.json": {"config": CONFIG}, FAILED: "{"}, "interrupted"),
        ({FAILED: {**asdict(FAILURE), "kind": "moon"}}, "unknown"),
        ({"config.json": "{"}, "unknown"),
        ({"config.json": "[]"}, "unknown"),
        ({"metrics.jsonl": ""}, "unknown"),
        ({"config.json": {"config": CONFIG | {"lr": "fast"}}}, "unknown"),
        ({FAILED: {**asdict(FAILURE), "reason": 7}}, "unknown"),
    ],
)
def test_the_state_of_a_run(files: dict[str, Any], state: str, store: Store) -> None:
    for name, content in files.items():
        write(store.path / ID / name, content)
    (found,) = store.runs()
    assert (found.run_id, found.state) == (ID, state)
    assert (found.config == CONFIG) is (state != "unknown")
    assert (found.result is not None) is (state == "finished")
    assert found.failure == (FAILURE if state == "failed" else None)


def test_a_run_that_somebody_holds_is_running_unless_it_has_ended(store: Store) -> None:
    write(store.path / ID / "config.json", {"config": CONFIG})
    store.fail(ID, FAILURE)
    with held(store.path / ID) as mine:
        found = store.read(ID)
        assert (found.state, found.owner) == ("running", mine.owner)
        write(store.path / ID / "result.json", RESULT)
        assert store.read(ID).state == "finished"


def test_folders_that_are_named_otherwise_are_not_runs(store: Store, tmp_path: Path) -> None:
    for name in ("documents", "0123456789", "lora-movies-012345678", "lora-movies-0123456789.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "ailora-movies-0123456789").touch()
    assert store.runs() == []
    assert Store(tmp_path / "nowhere").runs() == []


def test_a_failure_is_kept_until_it_is_forgiven_or_the_run_ends_well(store: Store) -> None:
    store.fail(ID, FAILURE)
    assert store.failure(ID) == FAILURE
    store.forgive(ID)
    assert store.failure(ID) is None
    store.fail(ID, FAILURE)
    RunFolder(store.path / ID).finish(RESULT)
    assert store.failure(ID) is None


def test_a_run_is_removed_whole_but_not_from_under_a_process(store: Store) -> None:
    write(store.path / ID / "checkpoints" / "checkpoint-3" / "state.json", {})
    write(store.path / ID / "config.json", {"config": CONFIG})
    (store.path / ID / LOCK).write_text("")  # somebody's, as far as anyone can tell
    with pytest.raises(LockedError):
        store.remove(ID)
    assert (store.path / ID / "checkpoints" / "checkpoint-3" / "state.json").exists()
    (store.path / ID / LOCK).unlink()
    store.remove(ID)
    assert list(store.path.iterdir()) == []


@pytest.mark.parametrize("result", SPOILED.values(), ids=SPOILED)
def test_a_result_that_somebody_changed_is_damaged_and_says_how(
    result: dict[str, Any], store: Store
) -> None:
    write(store.path / ID / "config.json", {"config": CONFIG})
    write(store.path / ID / "result.json", result)
    (found,) = store.runs()
    assert (found.state, found.config, found.result) == ("damaged", CONFIG, None)
    assert f"{ID}/result.json: is damaged: " in found.damage
    assert "remove the run's folder" in found.damage


def test_a_run_that_was_killed_before_it_wrote_anything_is_interrupted(store: Store) -> None:
    owner = {"host": "here", "machine": "gone", "pid": 1, "started": 0.0, "token": "0"}
    write(store.path / ID / LOCK, owner)
    os.utime(store.path / ID / LOCK, (0, 0))
    assert [run.state for run in store.runs()] == ["interrupted"]


def test_links_that_lead_round_in_a_circle_are_no_runs(store: Store) -> None:
    write(store.path / ID / "result.json", RESULT)
    (store.path / "round.json").symlink_to("round.json")
    (store.path / f"lora-{'0' * 10}").symlink_to(f"lora-{'0' * 10}")
    assert [run.run_id for run in store.runs()] == [ID]


def test_the_runs_below_a_comparison_are_found(store: Store) -> None:
    write(store.path / "runs" / ID / "result.json", RESULT)
    assert [run.run_id for run in Store.within(store.path).runs()] == [ID]
    assert [run.run_id for run in Store.within(store.path / "runs").runs()] == [ID]
    write(store.path / ID / "result.json", RESULT)
    assert Store.within(store.path).path == store.path
