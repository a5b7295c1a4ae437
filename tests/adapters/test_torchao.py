"""torchao's weights: factors from the dequantised weight, the base untouched, step 0 exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

import ailora
from ailora import presets
from ailora.errors import UserError
from ailora.roles import find_projections
from tests.adapters.models import parts, save_llama

quantization = pytest.importorskip("torchao.quantization")
TOKENS = torch.arange(1, 41).view(4, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def quantised(folder: Path) -> Any:
    config = hf.TorchAoConfig(quant_type=quantization.Int8WeightOnlyConfig())
    return hf.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="cpu", dtype=torch.bfloat16
    ).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {p.key: p.module.weight.dequantize() for p in find_projections(model, ("q", "v"))}


def test_it_starts_exactly_trains_and_loads_again(folder: Path, tmp_path: Path) -> None:
    model = quantised(folder)
    held, before = weights(model), logits(model)
    wrapped = ailora.get_peft_model(model, presets.ailora(4))
    assert torch.equal(logits(wrapped), before)
    optimizer = ailora.create_optimizer(wrapped, lr=1e-2)
    for _ in range(3):
        wrapped(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = logits(wrapped)
    assert not torch.equal(after, before)
    assert all(torch.equal(held[key], value) for key, value in weights(wrapped).items())
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), before)
    wrapped.save_pretrained(tmp_path)
    again = ailora.load_adapter(quantised(folder), tmp_path, is_trainable=True)
    assert torch.equal(logits(again), after)
    stock = PeftModel.from_pretrained(quantised(folder), str(tmp_path))
    torch.testing.assert_close(logits(stock), after, rtol=1e-2, atol=1e-2)


def test_the_factors_are_triplets_of_the_dequantised_weight(folder: Path) -> None:
    model = quantised(folder)
    held = weights(model)
    wrapped = ailora.get_peft_model(model, presets.ailora(4))
    for key, role in parts(wrapped).items():
        S = torch.linalg.svdvals(held[key].double())
        got = torch.linalg.svdvals(role.B0.double() @ role.A0.double())[:4]
        wanted = S[:4] if key.endswith("q_proj") else S[-4:]
        assert (got - wanted).abs().max() <= 1e-6 * S[0], key


def test_folding_into_it_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="the quantised weight"):
        ailora.get_peft_model(quantised(folder), presets.ailora(4, anchored=False))
