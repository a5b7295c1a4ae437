"""Every example runs from its file and trains; small models stand in for the embedded ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.tasks import TextTask, load_task
from ailora.lab.training import RunConfig, train
from tests.examples.conftest import EXAMPLES, Script

Run = Callable[[str, Path], tuple[str, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, script: Script) -> Run:
    """Run an example and return what it printed and its run's result."""

    def as_a_script(name: str, model: Path) -> tuple[str, dict[str, Any]]:
        printed = script(name, model, out=tmp_path)
        (folder,) = tmp_path.iterdir()
        return printed, json.loads((folder / "result.json").read_text())

    return as_a_script


def losses(result: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in result["history"] if entry["loss"] is not None]


def test_your_own_csv(run: Run, tiny_model: Path) -> None:
    printed, result = run("classifier", tiny_model)
    assert result["data"]["labels"] == ["billing", "delivery", "login"]
    assert losses(result)[-1] < losses(result)[0]
    assert f"accuracy on 12 messages: {result['metrics']['test']['accuracy']:.3f}" in printed


def test_your_own_instructions(run: Run, tiny_decoder: Path) -> None:
    printed, result = run("instructions", tiny_decoder)
    assert set(result["metrics"]["test"]) == {"exact", "rougeL"}
    assert losses(result)[-1] < losses(result)[0]
    assert len(re.findall(r"'city: \w+, shelf: \w'", printed)) == 3


def test_your_own_questions(run: Run, tiny_model: Path) -> None:
    printed, result = run("questions", tiny_model)
    assert losses(result)[-1] < losses(result)[0]
    assert f"F1 {result['metrics']['test']['f1']:.3f}" in printed


def test_a_task_of_one_file(tiny_model: Path, tmp_path: Path) -> None:
    task = load_task(EXAMPLES / "my_task.py", limit=64, eval_limit=10)
    assert isinstance(task, TextTask)
    assert (task.name, task.labels) == ("even-or-odd", ("even", "odd"))
    assert (len(task.train), len(task.selection), len(task.test)) == (64, 10, 10)
    splits = [set(split["text"]) for split in (task.train, task.selection, task.test)]
    assert len(set.union(*splits)) == 84
    result = train(RunConfig(model=str(tiny_model), task=task.name, epochs=1), task, tmp_path)
    assert 0 <= result["metrics"]["test"]["accuracy"] <= 1


def test_no_example_is_without_its_test() -> None:
    here = {"classifier", "instructions", "questions", "my_task"}
    other_trainers = {"peft_trainer", "trl_sft", "offline_files", "serve_exported", "analyse_run"}
    other_trainers |= {"sentence_transformers_sts", "lm_eval_harness"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == here | other_trainers
