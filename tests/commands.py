"""The command line called in this process, as a shell would call it."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ailora.cli import console  # noqa: F401 - made before a test sets COLUMNS, whose width it keeps
from ailora.lab.cli.main import main
from tests.conftest import one_thread


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def check_refused(ended: Ended, words: str) -> None:
    """Bad input ends in exit code 2 and one whole line that has these words."""
    assert ended.code == 2
    assert ended.err.startswith("ailora: ")
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    assert words in ended.err


Call = Callable[[str], Ended]


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    logger = logging.getLogger("ailora")
    before = list(logger.handlers)
    yield
    logger.handlers[:] = before


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run ``ailora ...`` in an empty folder, offline."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(line: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ailora", *shlex.split(line)])
        capsys.readouterr()  # bars of what the test itself has saved
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        said = capsys.readouterr()
        return Ended(code=code, out=said.out, err=said.err)

    return run
