"""Results of every schema are read, and what is newer says so."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.experiments.store import Store
from ailora.lab.training import RunConfig
from ailora.lab.training.results import SCHEMA, read_result, stamped

OLD = Path(__file__).parent / "results_of"
COMMITTED = Path(__file__).parents[3] / "results" / "movies-rates"


def test_there_is_a_file_of_every_older_schema() -> None:
    assert {path.name for path in OLD.glob("*.json")} == {
        f"schema_{number}.json" for number in range(1, SCHEMA)
    }


@pytest.mark.parametrize("path", sorted(OLD.glob("*.json")), ids=lambda path: path.stem)
def test_an_older_result_has_todays_settings_and_keeps_its_own(path: Path) -> None:
    written = json.loads(path.read_text(encoding="utf-8"))
    result = read_result(path)
    assert result is not None
    assert result["schema"] == SCHEMA
    config = RunConfig.from_json(result["config"])
    assert config.lr == written["config"]["lr"] == 0.004
    assert config.max_length == written["config"]["max_length"] == 128
    assert config.ranks is None
    assert result["metrics"] == written["metrics"]


def test_the_tables_within_settings_of_schema_2_are_read() -> None:
    result = read_result(OLD / "schema_2.json")
    assert result is not None
    config = RunConfig.from_json(result["config"])
    assert (config.answer_batch_size, config.max_new_tokens, config.doc_stride) == (16, 64, 64)
    assert config.batch_size == 16
    assert config.anchored
    assert not config.bake_rates


def test_todays_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    scores = {"accuracy": 0.5}
    result = {"config": asdict(RunConfig()), "data": {"metric": "accuracy"}}
    result |= {"metrics": {"selection": scores, "test": scores}}
    path.write_text(json.dumps(stamped(result)), encoding="utf-8")
    assert read_result(path) == stamped(result)


def test_a_result_of_a_newer_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"schema": 99, "metrics": {}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"result\.json: has schema 99, which is not known"):
        read_result(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2}'])
def test_what_is_no_result_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    assert read_result(path) is None
    assert read_result(tmp_path / "nowhere.json") is None


def test_results_that_lie_in_a_folder_as_files_are_runs() -> None:
    runs = Store(COMMITTED).runs()
    assert len(runs) == 30
    assert {run.state for run in runs} == {"finished"}
    assert {run.config["ranks"] for run in runs} == {None}
