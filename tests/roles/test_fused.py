"""Roles inside one weight: blocks of rows, and what of it the caller sees."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn

from ailora.errors import UserError
from ailora.roles import find_projections, inspect
from ailora.roles.layouts import Layout
from tests.architectures import build


def test_blocks_of_a_role_that_touch_are_one() -> None:
    layout = Layout(repeats=2, pattern=(("q", 2), ("q", 1), ("k", 1), (None, 1), ("v", 1)))
    assert layout.height == 12
    assert layout.rows() == {"q": ((0, 3), (6, 9)), "k": ((3, 4), (9, 10)), "v": ((5, 6), (11, 12))}
    assert Layout(repeats=3, pattern=(("q", 2),)).rows() == {"q": ((0, 6),)}


def test_every_row_of_a_fused_weight_has_at_most_one_role_and_the_parts_add_up() -> None:
    model = build("falcon", new_decoder_architecture=True)
    parts = [p for p in find_projections(model) if p.layer == 0 and p.rows]
    rows = [row for p in parts for start, stop in p.rows or () for row in range(start, stop)]
    assert sorted(rows) == list(range(64))
    assert {p.role: p.shape for p in parts} == {"q": (32, 32), "k": (16, 32), "v": (16, 32)}
    assert [p.key for p in parts] == [f"{parts[0].name}.{role}" for role in "qkv"]


@pytest.mark.parametrize("model_type", ["gpt2", "bloom"])
def test_a_roles_weight_is_its_rows_whichever_way_the_layer_stores_them(model_type: str) -> None:
    model = build(model_type)
    for p in find_projections(model, ["k"]):
        x = torch.randn(3, 32)
        whole = p.module(x) - p.module.bias
        rows = [row for start, stop in p.rows or () for row in range(start, stop)]
        torch.testing.assert_close(x @ p.weight().T, whole[:, rows], rtol=1e-4, atol=1e-6)


def test_gpt2s_cross_attention_has_its_query_in_a_layer_of_its_own() -> None:
    model = build("gpt2", add_cross_attention=True, is_decoder=True)
    cross = [p for p in find_projections(model) if p.attention == "cross" and p.layer == 0]
    assert {(p.role, p.name.rpartition(".")[2], p.rows) for p in cross} == {
        ("q", "q_attn", None),
        ("k", "c_attn", ((0, 32),)),
        ("v", "c_attn", ((32, 64),)),
        ("o", "c_proj", None),
    }


def test_a_peft_model_shows_the_rows_of_the_model_it_wraps() -> None:
    model = build("gpt2")
    before = find_projections(model)
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
    assert find_projections(get_peft_model(model, config)) == before


def test_the_table_has_rows_only_where_something_is_fused() -> None:
    lines = str(inspect(build("bloom"))).splitlines()
    assert lines[0].split()[:3] == ["name", "role", "rows"]
    assert "0:8 and 3 more" in lines[1]
    assert "all" in lines[4] and "dense" in lines[4]
    assert "rows" not in str(inspect(build("llama"))).splitlines()[0]


def test_a_known_fused_layer_cannot_be_given_whole_to_one_role() -> None:
    with pytest.raises(UserError, match=r"'c_attn' fits .*, of which only some rows are 'q' and"):
        find_projections(build("gpt2"), ["v"], modules={"v": ["c_attn"]})
    with pytest.raises(UserError, match="only some rows are 'q'"):
        find_projections(build("qwen3_next"), ["q"], modules={"q": ["q_proj"]})


def test_a_conv1d_that_is_not_fused_can_be_named_by_hand() -> None:
    found = find_projections(build("gpt2"), ["o"], modules={"o": ["mlp.c_fc"]})
    assert [(p.shape, p.rows) for p in found] == [((48, 32), None)] * 2


def test_a_class_of_the_same_name_elsewhere_is_not_taken_for_transformers_own() -> None:
    class BloomAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 4
            self.query_key_value = nn.Linear(32, 96)
            self.dense = nn.Linear(32, 32)

    with pytest.raises(UserError, match="in a layout that is not known"):
        find_projections(nn.ModuleDict({"attention": BloomAttention()}), ["q"])


def test_a_subclass_of_a_known_class_keeps_its_layout() -> None:
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

    class Mine(GPT2Attention):
        pass

    config = hf.GPT2Config(n_embd=32, n_head=4)
    found = find_projections(nn.ModuleDict({"attn": Mine(config)}), ["v"])
    assert [p.rows for p in found] == [((64, 96),)]
