"""Projections chosen by the caller: modules named by hand, and some layers only."""

from __future__ import annotations

from collections import Counter

import pytest
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from ailora.roles import find_projections
from tests.families import FAMILIES, LAYERS


class Unknown(nn.Module):
    """A model without a config, and names that no table has."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {"ask": nn.Linear(8, 6), "tell": nn.Linear(8, 4), "norm": nn.LayerNorm(8)}
            )
            for _ in range(3)
        )


def test_modules_named_by_hand_make_an_unknown_model_usable() -> None:
    model = nn.ModuleDict({"net": Unknown()})
    found = find_projections(
        model, ["q", "v"], modules={"q": ["ask"], "v": ["tell"]}, layers=[2, 0]
    )
    assert [(p.name, p.role, p.layer, p.shape) for p in found] == [
        ("net.blocks.0.ask", "q", 0, (6, 8)),
        ("net.blocks.0.tell", "v", 0, (4, 8)),
        ("net.blocks.2.ask", "q", 2, (6, 8)),
        ("net.blocks.2.tell", "v", 2, (4, 8)),
    ]


def test_names_given_by_hand_replace_the_built_in_ones_for_that_role_only() -> None:
    modules = {"v": ["encoder.layer.1.attention.self.value", "encoder.layer.0.intermediate.dense"]}
    found = find_projections(FAMILIES["bert"](), ["q", "v"], modules=modules)
    assert [p.name.removeprefix("bert.encoder.") for p in found if p.role == "v"] == [
        "layer.0.intermediate.dense",
        "layer.1.attention.self.value",
    ]
    assert Counter(p.role for p in found) == {"q": LAYERS, "v": 2}


def test_a_name_matches_whole_parts_of_a_path_only() -> None:
    found = find_projections(FAMILIES["deberta-v2"](), ["q"], modules={"q": ["query_proj"]})
    assert len(found) == LAYERS  # and not pos_query_proj


def test_cross_attention_named_by_hand_is_still_called_so() -> None:
    modules = {"v": ["encoder_attn.v_proj"]}
    found = find_projections(FAMILIES["bart"](), ["v"], modules=modules)
    assert [p.attention for p in found] == ["cross"] * LAYERS


def test_layers_keeps_those_layers_in_every_stack() -> None:
    found = find_projections(FAMILIES["bart"](), ["q"], layers=[1])
    assert [p.layer for p in found] == [1, 1, 1]
    assert {p.stack for p in found} == {"encoder", "decoder"}


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "mpnet", "opt", "bart", "t5"])
def test_layers_agrees_with_pefts_layers_to_transform(family: str) -> None:
    model = FAMILIES[family]()
    found = find_projections(model, ["q"], layers=[1])
    suffix = found[0].name.rsplit(".", 1)[-1]
    config = LoraConfig(target_modules=[suffix], layers_to_transform=[1])
    if not check_target_module_exists(config, found[0].name):
        pytest.skip("this PEFT (before 0.20) takes the last number in a name for the layer's")
    assert get_peft_model(model, config).base_model.targeted_module_names == [p.name for p in found]
