"""One thread, a small decoder, and examples called as a user calls them."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import one_thread
from tests.writers import save_llama

EXAMPLES = Path(__file__).parents[2] / "examples"
Script = Callable[..., str]


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="package")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models"), positions=256)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Run an example as ``python examples/NAME.py --model MODEL ...``; returns what it printed."""

    def as_a_script(name: str, model: Path, **options: object) -> str:
        given = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        monkeypatch.setattr(sys, "argv", [name, "--model", str(model), *given])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return as_a_script
