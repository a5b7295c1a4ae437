"""Starts in multi-head latent attention, whose values are rows between the keys', head by head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ailora
from ailora import presets
from ailora.roles import find_projections
from tests.adapters.any_model import (
    DTYPES,
    base,
    batch,
    check_merged,
    check_own_parts,
    check_step_0,
    run_stock_peft,
    train,
    train_and_save,
)

# With a latent for the query and without, a query beside its gate, no position at all.
TYPES = ("deepseek_v3", "deepseek_v2", "axk2", "kimi_linear")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", TYPES)
def test_step_0_and_the_disabled_adapter_are_the_base_bit_for_bit(
    model_type: str, dtype: torch.dtype
) -> None:
    check_step_0(model_type, dtype, presets.ailora(3))


@pytest.mark.parametrize("model_type", TYPES)
def test_queries_start_from_the_largest_and_values_from_the_smallest_of_their_own_rows(
    model_type: str,
) -> None:
    asked = presets.ailora(3)
    check_own_parts(ailora.get_peft_model(base(model_type), asked), asked.roles, asked.r)


@pytest.mark.parametrize("anchored", [True, False])
def test_keys_do_not_move_where_queries_and_values_train(anchored: bool) -> None:
    before = {p.key: p.weight().clone() for p in find_projections(base("deepseek_v3"))}
    model = ailora.get_peft_model(base("deepseek_v3"), presets.ailora(3, anchored=anchored))
    train(model, batch(base("deepseek_v3")), 5)
    for p in find_projections(model.merge_and_unload()):
        moved = float((p.weight() - before[p.key]).norm() / before[p.key].norm())
        assert moved > 1e-3 if p.role in "qv" else moved < 1e-6, p.key


def test_stock_peft_in_another_process_reproduces_the_logits_and_merges_them(
    tmp_path: Path,
) -> None:
    wanted = {}
    for dtype in DTYPES:
        model = ailora.get_peft_model(base("deepseek_v3", dtype), presets.ailora(3))
        wanted[dtype] = train_and_save(model, base("deepseek_v3", dtype), tmp_path / str(dtype))
    run_stock_peft(tmp_path)
    for dtype, expected in wanted.items():
        result = load_file(tmp_path / str(dtype) / "out")
        assert torch.equal(result["logits"], expected)
        check_merged(result["merged"], expected, dtype)
