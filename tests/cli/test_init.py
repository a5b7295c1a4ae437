"""``ailora init`` as a shell calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints.models import files, saved
from tests.cli.conftest import Call, check_refused


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", shards=True)


def test_it_writes_both_folders_and_says_what_rounding_cost(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ended = call(f"init {model} --out start --rank 4 --lr-mode baked")
    assert ended.code == 0, ended.err
    assert (Path("start/adapter/adapter_model.safetensors")).exists()
    assert (Path("start/model/model.safetensors.index.json")).exists()
    assert ended.out.count("float32") == 8  # stored as and kept as, of two weights in two layers
    assert "ailora export" in ended.out
    before = files(Path("start"))
    assert call(f"init {model} --out start --rank 4 --lr-mode baked").out == ended.out
    assert files(Path("start")) == before


def test_anchored_writes_an_adapter_alone(call: Call, model: Path) -> None:
    ended = call(f"init {model} --out start --rank 4 --preset milora --anchored")
    assert ended.code == 0, ended.err
    assert "load_adapter" in ended.out
    assert (Path("start/adapter_config.json")).exists()
    assert not (Path("start/model")).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--rank 0", "rank"),
        ("--rank 17", "r=17"),
        ("--preset olora", "'olora'"),
        ("--lr-mode slow", "'slow'"),
        ("--dtype int8", "'int8'"),
        ("--task-type SPEECH", "'SPEECH'"),
        ("--out /proc/nobody/x", "/proc/nobody/x"),
        ("--out {model}/config.json", "is a file"),
        ("--out {model}", "not empty"),
    ],
)
def test_bad_input_ends_in_one_line_and_changes_nothing(
    call: Call, model: Path, tmp_path: Path, options: str, words: str
) -> None:
    before = files(tmp_path)
    ended = call(f"init {model} --out start {options.format(model=model)}")
    check_refused(ended, words)
    assert files(tmp_path) == before
    assert not Path("start").exists()


@pytest.mark.parametrize("name", ["./nowhere", "nobody/none"])
def test_a_model_that_is_not_there_ends_in_one_line(call: Call, name: str) -> None:
    ended = call(f"init {name} --out start")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert name in ended.err
    assert not Path("start").exists()
