"""The notebooks are stored without outputs, and run from top to bottom on a tiny model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.examples.conftest import EXAMPLES

NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
NotebookRun = Callable[[str], nbformat.NotebookNode]


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(EXAMPLES / "notebooks" / f"{name}.ipynb", as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [one for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_what_a_run_left(path: Path) -> None:
    notebook = read(path.stem)
    nbformat.validate(notebook)
    assert not outputs(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.execution_count is None for cell in code)


@pytest.fixture
def executed(
    tiny_model: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> NotebookRun:
    monkeypatch.setenv("AILORA_NOTEBOOK_MODEL", str(tiny_model))
    monkeypatch.setenv("AILORA_NOTEBOOK_TASK", str(reviews))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def execute(name: str) -> nbformat.NotebookNode:
        where = {"metadata": {"path": str(tmp_path)}}
        return NotebookClient(
            read(name), kernel_name="python3", timeout=180, resources=where
        ).execute()

    return execute


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(one.text for one in outputs(notebook) if one.output_type == "stream")


def figures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in one.get("data", {}) for one in outputs(notebook))


@pytest.mark.slow
def test_a_first_adapter(executed: NotebookRun) -> None:
    text = printed(executed("first_adapter"))
    trained, stock = re.findall(r"accuracy ([\d.]+) on 20 rows", text)
    assert trained == stock
    (difference,) = re.findall(r"difference of a logit: (\S+)", text)
    assert float(difference) < 1e-5


@pytest.mark.slow
def test_what_the_weights_do(executed: NotebookRun) -> None:
    notebook = executed("what_the_weights_do")
    assert figures(notebook) == 2
    tables = [
        one.data["text/plain"] for one in outputs(notebook) if "text/html" in one.get("data", {})
    ]
    shown = [
        one.data["text/html"] for one in outputs(notebook) if "text/html" in one.get("data", {})
    ]
    assert len(tables) == 3 and "effective_rank" in tables[2]
    (scores,) = (html for html in shown if "accuracy" in html)
    assert "<td>" in scores and "(adapter)" in scores


def test_no_notebook_is_without_its_test() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_adapter", "what_the_weights_do"]
