"""No file of a stranger's does more than be read or refused: 2,000 seeded cases of each run.

``python -m tests.hostile --cases 20000`` runs more of them.
"""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import one_thread
from tests.hostile import subjects
from tests.hostile.cases import FINE, Case, _ending, endings, run_cases
from tests.hostile.guard import BrokenPromiseError, watched
from tests.hostile.mutations import PAYLOAD, Code

CASES, PARTS = 2000, 8


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with one_thread():
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


_done: list[Case] = []


@pytest.mark.parametrize("part", range(PARTS))
def test_each_case_is_refused_in_one_line_or_read_right(part: int, scratch: Path) -> None:
    found = list(run_cases(range(part, CASES, PARTS), 0, scratch))
    _done.extend(found)
    broken = [case for case in found if case.is_broken]
    assert not broken, "\n".join(map(str, broken))


def test_half_of_the_files_are_whole_in_form_and_endings_are_many() -> None:
    if len(_done) < CASES:
        pytest.skip("another process ran some of the cases")
    assert sum(case.parsed for case in _done) >= CASES / 2
    found = endings(_done)
    assert len(found) > 150
    for subject in subjects.SUBJECTS:
        assert any(name == subject and how == FINE for name, how in found)
        assert any(name == subject and how != FINE for name, how in found) or subject == "cache"


# --- The guard itself can see what it is for --------------------------------------------------


def _take_long() -> None:
    end = time.process_time() + 2.2
    while time.process_time() < end:
        sum(range(10**5))


def _write_elsewhere(folder: Path) -> None:
    (folder.parent / "elsewhere").write_text("x")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: pickle.loads(pickle.dumps([1])), "a pickle was opened"),  # noqa: S301
        (lambda folder: torch.load(folder / "x.pt", weights_only=False), "weights_only"),
        (lambda folder: _write_elsewhere(folder), "open of"),
        (lambda folder: (folder.parent / "kept").unlink(), "os.remove of"),
        (lambda folder: Path(PAYLOAD).touch(), "ran|open of"),
        (lambda folder: subprocess.run([sys.executable, "-V"], check=True), "subprocess.Popen"),
        (lambda folder: _take_long(), "took 2"),
        (lambda folder: b"x" * (700 * 2**20), "MB"),
    ],
)
def test_what_must_not_happen_is_seen(tmp_path: Path, harm: object, words: str) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    (tmp_path / "kept").touch()
    with pytest.raises(BrokenPromiseError, match=words), watched(folder, Path(PAYLOAD)):
        harm(folder)  # type: ignore[operator]


def test_an_error_of_another_kind_is_a_broken_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise KeyError("x")

    broken = subjects.Subject(make=fail, read=fail)
    monkeypatch.setitem(subjects.SUBJECTS, "broken", broken)
    ending, is_broken = _ending("broken", tmp_path)
    assert is_broken
    assert ending.startswith("KeyError")


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_that_runs_code_is_refused_as_a_trainers_state(tmp_path: Path, file: str) -> None:
    subjects._state(tmp_path)
    assert (tmp_path / file).is_file()
    torch.save({"x": Code()}, tmp_path / file)
    ending, is_broken = _ending("trainer's state", tmp_path)
    assert "its state cannot be read" in ending
    assert not is_broken
    assert not Path(PAYLOAD).exists()
