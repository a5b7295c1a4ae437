"""Every preset on every family that ``ailora.roles`` knows; folded, two of them.

A preset differs from another by what a role starts from, whatever the family: `test_starts.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

import ailora
from ailora import presets
from tests.adapters.models import base_weights, batch, logits, parts, same, tiny, train
from tests.families import FAMILIES

CASES = pytest.mark.parametrize("family", FAMILIES)
PRESETS = pytest.mark.parametrize("name", presets.__all__)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("name", ["ailora", "lora"])
@CASES
def test_gradients_reach_every_factor(family: str, name: str, anchored: bool) -> None:
    model = tiny(family=family)
    inputs = batch(model, family)
    model = ailora.get_peft_model(model, getattr(presets, name)(3, anchored=anchored))
    train(model, inputs, 2, lr=1e-3)  # LoRA's A has none before its B has moved
    for key, part in parts(model).items():
        for letter, module in zip("AB", part.modules, strict=True):
            (parameter,) = module.parameters()
            assert parameter.grad.any(), (key, letter)


@PRESETS
@CASES
def test_anchored_starts_at_the_base_learns_and_is_a_plain_lora_of_it(
    family: str, name: str, tmp_path: Path
) -> None:
    base = tiny(family=family)
    inputs, ask = batch(base, family), batch(base, family, labels=False)
    before, weights = logits(base, ask), base_weights(base)
    model = ailora.get_peft_model(base, getattr(presets, name)(3, lora_alpha=6))
    assert torch.equal(logits(model, ask), before)
    train(model, inputs, 1, lr=1e-3)
    after = logits(model, ask)
    assert not torch.equal(after, before)
    assert same(base_weights(model), weights)
    model.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(tiny(family=family), str(tmp_path))
    assert torch.equal(logits(stock, ask), after)


@pytest.mark.parametrize("name", ["ailora", "pissa"])
@CASES
def test_folded_starts_at_the_base_learns_and_comes_back_on_a_fresh_base(
    family: str, name: str, tmp_path: Path
) -> None:
    base = tiny(family=family)
    inputs, ask = batch(base, family), batch(base, family, labels=False)
    before = logits(base, ask)
    model = ailora.get_peft_model(base, getattr(presets, name)(3, lora_alpha=6, anchored=False))
    torch.testing.assert_close(logits(model, ask), before, rtol=0, atol=1e-9)
    train(model, inputs, 1, lr=1e-3)
    after = logits(model, ask)
    assert float((after - before).abs().max()) > 1e-6
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(family=family), tmp_path)
    assert torch.equal(logits(again, ask), after)
    assert same(base_weights(again), base_weights(model))
