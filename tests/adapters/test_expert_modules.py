"""Experts that are modules, as transformers 4 has them: roles as in the dense block."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.selection import select
from ailora.versions import is_transformers_4
from tests.adapters.any_model import base, check_step_0, check_stock_peft, train_and_save

pytestmark = pytest.mark.skipif(
    not is_transformers_4(), reason="experts are stacks from transformers 5 on"
)

TYPES = {
    "mixtral": ["q_proj", "w1", "w2", "w3"],
    "qwen3_moe": ["q_proj", "gate_proj", "up_proj", "down_proj"],
    "olmoe": ["q_proj", "gate_proj", "up_proj", "down_proj"],
}
ROLES = {
    "q": Role(init="principal"),
    "gate": Role(init="principal"),
    "up": Role(init="minor", lr_ratio=2.0),
    "down": Role(init="minor"),
}


def config(model_type: str) -> AILoRAConfig:
    return AILoRAConfig(r=2, roles=ROLES, target_modules=TYPES[model_type])


@pytest.mark.parametrize("model_type", TYPES)
def test_each_expert_has_the_roles_of_a_dense_block(model_type: str) -> None:
    chosen = select(base(model_type), config(model_type)).chosen
    experts = Counter(one.projection.role for one in chosen if ".experts." in one.projection.name)
    assert experts["gate"] == experts["up"] == experts["down"] > 4 and experts["*"] == 0
    ends = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    ends |= {"w1": "gate", "w3": "up", "w2": "down"}
    for one in chosen:
        last = one.projection.name.rpartition(".")[2]
        assert one.projection.role == ends.get(last, "q")


@pytest.mark.parametrize("model_type", [*TYPES, "granitemoe"])
def test_all_linear_leaves_the_router_alone(model_type: str) -> None:
    asked = AILoRAConfig(r=2, roles=ROLES, target_modules="all-linear")
    names = [one.projection.name for one in select(base(model_type), asked).chosen]
    assert names and not any(name.endswith((".gate", "router", "router.layer")) for name in names)


@pytest.mark.parametrize("model_type", TYPES)
def test_step_0_and_the_disabled_adapter_are_the_base_bit_for_bit(model_type: str) -> None:
    check_step_0(model_type, torch.float32, config(model_type))


def test_stock_peft_in_another_process_computes_the_same(tmp_path: Path) -> None:
    wanted = {}
    for model_type in TYPES:
        model = ailora.get_peft_model(base(model_type), config(model_type))
        folder = tmp_path / model_type
        wanted[folder] = train_and_save(model, base(model_type), folder)
    check_stock_peft(wanted)
