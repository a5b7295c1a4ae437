"""``ailora export`` as a shell calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

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
        ("--rank 1.0", "--rank 1.0: give a rank (8), or the share"),
        ("--rank 0.0", "--rank 0.0"),
        ("--rank most", "--rank most"),
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


@pytest.mark.parametrize(
    ("rank", "limit"), [(1, 1), (2, 8), (8, 8), (9, 16), (17, 32), (65, 128), (257, 320)]
)
def test_vllm_is_started_with_the_smallest_of_its_limits_that_holds_the_rank(
    call: Call, tmp_path: Path, rank: int, limit: int
) -> None:
    stock_adapter(tmp_path / "adapter", r=rank)
    ended = call(f"export {tmp_path / 'adapter'} --out served --server vllm --base x/y")
    assert ended.code == 0, ended.err
    assert not ended.err  # the limit is named in the command, so there is nothing to warn of
    line = f"vllm serve x/y --enable-lora --max-lora-rank {limit} --lora-modules NAME=served"
    assert line in ended.out
    assert json.loads(Path("served/adapter_config.json").read_text())["r"] == rank


@pytest.mark.parametrize(
    ("fields", "server", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, "vllm", "modules_to_save=['lm_head']"),
        ({"modules_to_save": ["lm_head"]}, "llama.cpp", "--merge"),
        ({"bias": "all"}, "sglang", "bias='all'"),
        ({"r": 513}, "vllm", "--rank 512"),
        ({"use_dora": True}, "vllm", "use_dora"),
        ({}, "ollama", "must be one of vllm, sglang, llama.cpp"),
    ],
)
def test_what_a_server_cannot_read_is_refused_by_name(
    call: Call, tmp_path: Path, fields: dict[str, Any], server: str, words: str
) -> None:
    if fields.get("bias"):
        stock_adapter(tmp_path / "adapter", "bert", target_modules=["query"], **fields)
    else:
        stock_adapter(tmp_path / "adapter", **fields)
    ended = call(f"export {tmp_path / 'adapter'} --out served --server {server}")
    check_refused(ended, words)
    assert not Path("served").exists()


def test_a_merged_model_is_given_to_a_server_without_an_adapter(call: Call, tmp_path: Path) -> None:
    stock_adapter(tmp_path / "adapter")
    model = saved(tmp_path / "model")
    ended = call(f"export {tmp_path / 'adapter'} --out m --merge {model} --server vllm")
    check_refused(ended, "--server vllm")


def test_a_share_of_the_energy_finds_each_modules_rank(
    call: Call, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ended = call(f"export {adapter} --out small --rank 0.8")
    assert ended.code == 0, ended.err
    assert "lost of dW, all modules together: " in ended.out
    rank = json.loads(Path("small/adapter_config.json").read_text())["r"]
    assert f"adapter of rank {rank}: small" in ended.out
    assert f"4 -> {rank}" in ended.out


def test_a_head_of_factors_is_served_without_the_bases_copy(call: Call, tmp_path: Path) -> None:
    """PEFT saves lm_head's own weight beside its factors; servers have it from the base."""
    stock_adapter(tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    ended = call(f"export {tmp_path / 'adapter'} --out served --server vllm")
    assert ended.code == 0, ended.err
    assert not [k for k in load_file("served/adapter_model.safetensors") if "base_layer" in k]
    assert call(f"export {tmp_path / 'adapter'} --out plain").err == ""
    assert [k for k in load_file("plain/adapter_model.safetensors") if "base_layer" in k]
