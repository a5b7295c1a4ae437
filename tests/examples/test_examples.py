"""Every example runs from its file and trains; small models stand in for the embedded ones."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ailora.tasks import TextTask, load_task
from ailora.training import RunConfig, train
from tests.conftest import one_thread
from tests.writers import save_llama

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run an example as ``python examples/NAME.py`` would and return its run's result."""

    def as_a_script(name: str, model: Path) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, "--model", str(model), "--out", str(tmp_path)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        (folder,) = tmp_path.iterdir()
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return result

    return as_a_script


def losses(result: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in result["history"] if entry["loss"] is not None]


def test_your_own_csv(run: Run, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("classifier", tiny_model)
    assert result["data"]["labels"] == ["billing", "delivery", "login"]
    assert losses(result)[-1] < losses(result)[0]
    printed = capsys.readouterr().out
    assert f"accuracy on 12 messages: {result['metrics']['test']['accuracy']:.3f}" in printed


def test_your_own_instructions(
    run: Run, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("instructions", save_llama(tmp_path_factory.mktemp("models"), positions=256))
    assert set(result["metrics"]["test"]) == {"exact", "rougeL"}
    assert losses(result)[-1] < losses(result)[0]
    assert len(re.findall(r"'city: \w+, shelf: \w'", capsys.readouterr().out)) == 3


def test_your_own_questions(run: Run, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("questions", tiny_model)
    assert losses(result)[-1] < losses(result)[0]
    assert f"F1 {result['metrics']['test']['f1']:.3f}" in capsys.readouterr().out


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
    tested = {"classifier", "instructions", "questions", "my_task"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
