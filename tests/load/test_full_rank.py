"""Ranks up to min(m, n): started, trained, saved and loaded; beyond it refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf

import ailora
from ailora import AILoRAConfig
from ailora.errors import UserError

# Keys and values have half the rows of queries: 16 x 32.
CONFIG = hf.LlamaConfig(
    vocab_size=20,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
)
IDS = torch.arange(8).reshape(1, 8)


def base() -> Any:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(CONFIG).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("preset", ["ailora", "pissa", "milora"])
def test_a_rank_of_every_singular_value(preset: str, anchored: bool, tmp_path: Path) -> None:
    before = logits(base())
    config = getattr(ailora.presets, preset)(r=16, rank_pattern={"q_proj": 32}, anchored=anchored)
    model = peft.get_peft_model(base(), config)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    optimizer = ailora.create_optimizer(model, torch.optim.AdamW, lr=1e-2)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    trained = logits(model)
    assert not torch.allclose(trained, before, atol=1e-3)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(base(), tmp_path)
    torch.testing.assert_close(logits(again), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("preset", ["ailora", "pissa", "milora"])
def test_one_more_is_refused_by_name_and_the_model_is_as_it_was(
    preset: str, anchored: bool
) -> None:
    model = base()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"r=17 for role 'v' .*v_proj.* 16 x 32.*at most 16"):
        peft.get_peft_model(model, getattr(ailora.presets, preset)(r=17, anchored=anchored))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_lora_itself_has_no_such_bound() -> None:
    config = AILoRAConfig(r=40, roles={"*": ailora.Role(init="gaussian")})
    model = peft.get_peft_model(base(), config)
    torch.testing.assert_close(logits(model), logits(base()))
