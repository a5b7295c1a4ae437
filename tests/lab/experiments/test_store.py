"""What a folder of runs says about each of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.experiments import Store
from ailora.lab.experiments.store import Failure
from ailora.lab.lock import LOCK, LockedError, held
from ailora.lab.training import RunConfig
from ailora.lab.training.folder import FAILED, RunFolder

CONFIG = asdict(RunConfig(rank=4))
RESULT = {"config": CONFIG, "metrics": {}}
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
