"""Adapters on models that read images and text: the language part, the tower, or both."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

import ailora
from ailora import AILoRAConfig
from ailora.adapters.selection import select
from tests.adapters.any_model import check_merged, logits, train
from tests.image_and_text import MODELS, TOWER, build, inputs

PARTS = {"default": None, "vision": ["vision"], "both": ["language", "vision"]}


def _check_where(model: torch.nn.Module, name: str, parts: str) -> None:
    """Adapted layers are in the tower, or outside it, and never in the projector."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    inside = {TOWER[name] in n.split(".") for n in names}
    assert inside == {"default": {False}, "vision": {True}, "both": {False, True}}[parts]
    assert not any(word in n for n in names for word in ("projector", "connector"))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", MODELS)
def test_start_disable_stock_reload_and_merge(name: str, parts: str, tmp_path: Path) -> None:
    rows = inputs(name)
    before = logits(build(name), rows)
    model = peft.get_peft_model(build(name), AILoRAConfig(r=4, parts=PARTS[parts])).eval()
    _check_where(model, name, parts)
    assert torch.equal(logits(model, rows), before)
    train(model, rows)
    trained = logits(model, rows)
    assert (trained - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model, rows), before)
    model.save_pretrained(tmp_path)
    stock = peft.PeftModel.from_pretrained(build(name), tmp_path).eval()
    torch.testing.assert_close(logits(stock, rows), trained, rtol=0, atol=1e-5)
    again = ailora.load_adapter(build(name), tmp_path).eval()
    assert torch.equal(logits(again, rows), trained)
    check_merged(logits(model.merge_and_unload(), rows), trained, torch.float32)


@pytest.mark.parametrize("name", MODELS)
def test_step_0_of_the_tower_is_the_base_bit_for_bit_in_bf16(name: str) -> None:
    rows = inputs(name, torch.bfloat16)
    before = logits(build(name, torch.bfloat16), rows)
    config = AILoRAConfig(r=4, parts=["vision"])
    model = peft.get_peft_model(build(name, torch.bfloat16), config).eval()
    assert torch.equal(logits(model, rows), before)


@pytest.mark.parametrize("name", MODELS)
def test_the_tower_has_as_many_layers_of_each_role_as_blocks(name: str) -> None:
    chosen = select(build(name), AILoRAConfig(r=4, parts=["vision"])).chosen
    assert sorted(one.projection.role for one in chosen) == ["q", "q", "v", "v"]
