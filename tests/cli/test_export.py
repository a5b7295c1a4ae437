"""``ailora export`` as a shell calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints.models import files, saved
from tests.commands import Call, check_refused
from tests.offline.models import stock_adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    stock_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_exact_compressed_and_merged(
    call: Call, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert "rank 4" in call(f"export {adapter} --out exact --exact").out
    small = call(f"export {adapter} --out small --rank 2")
    assert small.code == 0, small.err
    assert small.out.count("4 -> 2") == 6
    assert "tail energy" in small.out
    model = saved(tmp_path / "model", shards=True)
    merged = call(f"export {adapter} --out merged --merge {model}")
    assert merged.code == 0, merged.err
    assert Path("merged/model.safetensors.index.json").exists()
    assert merged.out.count("float32") == 6


def test_a_residual_start_goes_to_and_fro(call: Call, tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    call(f"init {model} --out start --rank 4")
    ended = call("export start/adapter --out plain --folded-base")
    assert ended.code == 0, ended.err
    assert str(model) in ended.out.replace("\n", "")
    Path("start").rename("moved")
    moved = call("export moved/adapter --out again --folded-base --start moved/adapter")
    assert moved.code == 0, moved.err
    assert str(model) in moved.out.replace("\n", "")
    named = call("export moved/adapter --out named --start moved/adapter --folded-base --base x/y")
    assert named.out.rstrip().endswith("for the model: x/y")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--exact --rank 2", "--exact and --rank 2"),
        ("--rank 0", "rank=0"),
        ("--merge ./nowhere", "nowhere"),
        ("--folded-base", "start is not found"),
        ("--start {adapter}", "--start"),
        ("--merge {model} --base x", "--base x"),
        ("--start {adapter} --merge {model}", "--start"),
        ("--out {adapter}", "not empty"),
        ("--out /proc/nobody/x", "/proc/nobody/x"),
        ("--merge {model} --out {model}", "not empty"),
    ],
)
def test_bad_input_ends_in_one_line_and_changes_nothing(
    call: Call, adapter: Path, tmp_path: Path, options: str, words: str
) -> None:
    model = saved(tmp_path / "model")
    before = files(tmp_path)
    ended = call(f"export {adapter} --out out {options.format(adapter=adapter, model=model)}")
    check_refused(ended, words)
    assert files(tmp_path) == before


def test_an_adapter_that_is_not_there_ends_in_one_line(call: Call) -> None:
    ended = call("export nowhere --out out")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "nowhere" in ended.err
