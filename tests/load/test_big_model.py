"""A model of 70 billion parameters is looked at without reading it, and started a tensor at a time.

The 70B's own start: ``python -m tests.load.big_model FOLDER``, then ``... FOLDER OUT 2``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load.big_model import LLAMA_70B, Size, make
from tests.load.measured import on_linux, said_by
from tests.load.test_store import COMMAND, seconds_of

SMALL = Size(layers=24, hidden=1024, inner=512, heads=16, kv_heads=4, vocabulary=100)
# The largest decomposed tensor as float64 and float32: what a decomposition works on.
TENSOR = SMALL.hidden * SMALL.hidden * (8 + 4)
CONSTANT = 48 << 20  # the model's modules, PEFT's, buffers


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "big", LLAMA_70B, filled=0)


@pytest.mark.slow
def test_a_70b_index_is_inspected_in_little_more_than_a_tiny_one(
    tiny_model: Path, big: Path
) -> None:
    tiny, _ = seconds_of(COMMAND, "inspect", tiny_model)
    used, said = seconds_of(COMMAND, "inspect", big)
    assert said.count("8192 x 8192") == 2 * LLAMA_70B.layers  # q and o
    assert used < 2 * tiny, f"{used:.1f} s, and a tiny model {tiny:.1f} s"


@pytest.mark.slow
def test_a_70b_start_is_planned_in_little_more_than_a_tiny_one(
    tiny_model: Path, big: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path / "out", "--preset", "pissa", "--published", "--plan")
    tiny, _ = seconds_of(COMMAND, "init", tiny_model, *options)
    used, said = seconds_of(COMMAND, "init", big, *options)
    assert said.count(" 0-79 ") == 7
    assert "trains: 103,546,880 parameters (0.15 % of 68,976,648,192)" in said
    assert not (tmp_path / "out").exists()
    assert used < 2 * tiny, f"{used:.1f} s, and a tiny model {tiny:.1f} s"


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("how", ["anchored", "folded"])
def test_a_start_takes_one_tensor_however_many_layers(tmp_path: Path, how: str) -> None:
    model = make(tmp_path / "model", SMALL, filled=SMALL.layers)
    two, all_of_it = (
        said_by(
            *("-m", "tests.load.big_model", model, tmp_path / f"{layers}", layers),
            *["folded"] * (how == "folded"),
        )[-1]["memory"]
        for layers in (2, SMALL.layers)
    )
    assert two < TENSOR + CONSTANT
    # Kept in bf16 the 44 more tensors would be 4.5 TENSOR; their factors are 0.8 of one, and a peak
    # that falls between two looks is one.
    assert all_of_it - two < 2 * TENSOR
