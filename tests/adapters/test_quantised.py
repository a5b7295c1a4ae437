"""Quantised bases: factors from the dequantised weight, the base untouched, step 0 exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model

import ailora
from ailora import presets
from ailora.errors import UserError
from ailora.roles import find_projections
from tests.adapters.models import parts, save_llama

has_avx512bf16 = pytest.importorskip("bitsandbytes.functional").has_avx512bf16
TOKENS = torch.arange(1, 41).view(4, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def quantised(folder: Path, kind: str) -> hf.PreTrainedModel:
    config: Any
    if kind == "int8":
        config = hf.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = hf.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=kind == "nf4",
            bnb_4bit_compute_dtype=torch.float32,
        )
    return hf.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="cpu", dtype=torch.float32
    ).train()  # Llama has no dropout; in eval mode bitsandbytes may compute in bf16


KINDS = pytest.mark.parametrize("kind", ["int8", "nf4", "fp4"])


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


def packed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {p.name: p.module.weight.data.clone() for p in find_projections(model, ("q", "v"))}


def train(model: torch.nn.Module, steps: int = 3) -> None:
    optimizer = ailora.create_optimizer(model, lr=1e-2)
    for _ in range(steps):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@KINDS
def test_step_0_is_exact_and_training_leaves_the_packed_weights(folder: Path, kind: str) -> None:
    model = quantised(folder, kind)
    bits, before = packed(model), logits(model)
    wrapped = ailora.get_peft_model(model, presets.ailora(4))
    assert torch.equal(logits(wrapped), before)
    train(wrapped)
    assert not torch.equal(logits(wrapped), before)
    assert all(torch.equal(bits[name], now) for name, now in packed(wrapped).items())
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), before)


@KINDS
def test_the_factors_are_triplets_of_what_the_layer_computes(folder: Path, kind: str) -> None:
    """W is read off the layer itself, by applying it to the unit vectors."""
    model = quantised(folder, kind)
    columns = {
        p.key: (p.module(torch.eye(64)) - p.module(torch.zeros(1, 64))).T.double()
        for p in find_projections(model, ("q", "v"))
    }
    wrapped = ailora.get_peft_model(model, presets.ailora(4))
    tolerance = 0.05 if kind == "int8" else 1e-5  # int8 layers round their input as well
    for key, role in parts(wrapped).items():
        S = torch.linalg.svdvals(columns[key].detach())
        got = torch.linalg.svdvals(role.B0.double() @ role.A0.double())[:4]
        wanted = S[:4] if key.endswith("q_proj") else S[-4:]
        assert (got - wanted).abs().max() <= tolerance * S[0], key


@KINDS
def test_what_is_saved_loads_in_stock_peft_and_for_training(
    folder: Path, kind: str, tmp_path: Path
) -> None:
    wrapped = ailora.get_peft_model(quantised(folder, kind), presets.ailora(4))
    train(wrapped)
    wrapped.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(quantised(folder, kind), str(tmp_path)).train()
    torch.testing.assert_close(logits(stock), logits(wrapped), rtol=1e-5, atol=1e-5)
    again = ailora.load_adapter(quantised(folder, kind), tmp_path, is_trainable=True)
    assert torch.equal(logits(again), logits(wrapped))


@KINDS
def test_folding_into_a_quantised_weight_is_refused(folder: Path, kind: str) -> None:
    with pytest.raises(UserError, match="the quantised weight"):
        ailora.get_peft_model(quantised(folder, kind), presets.ailora(4, anchored=False))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def off_by(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert got.keys() == wanted.keys()
    return max(float((got[name] - wanted[name]).abs().max()) for name in wanted)


@pytest.mark.parametrize("how", ["started", "loaded"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_an_evaluation_leaves_the_gradients_as_they_were(
    folder: Path, kind: str, how: str, tmp_path: Path
) -> None:
    wrapped = ailora.get_peft_model(quantised(folder, kind), presets.ailora(4))
    if how == "loaded":
        wrapped.save_pretrained(tmp_path)
        wrapped = ailora.load_adapter(quantised(folder, kind), tmp_path, is_trainable=True)
    before = gradients(wrapped)
    logits(wrapped.eval())
    assert off_by(gradients(wrapped), before) == 0


packs = pytest.mark.skipif(not has_avx512bf16(), reason="bitsandbytes packs with AVX512-BF16 only")


@packs
@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered")
def test_with_stock_peft_an_evaluation_ends_all_learning(folder: Path) -> None:
    """What the test above would see without ailora's care."""
    stock = get_peft_model(quantised(folder, "nf4"), LoraConfig(init_lora_weights=False))
    assert gradients(stock)
    logits(stock.eval())
    assert not gradients(stock)


@packs
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_packed_for_inference_are_refused(folder: Path, kind: str, tmp_path: Path) -> None:
    ailora.get_peft_model(quantised(folder, kind), presets.ailora(4)).save_pretrained(tmp_path)
    model = quantised(folder, kind)
    before = logits(model.eval())
    with pytest.raises(UserError, match="q_proj: bitsandbytes packed"):
        ailora.get_peft_model(model, presets.ailora(4))
    with pytest.raises(UserError, match="q_proj: bitsandbytes packed"):
        ailora.load_adapter(model, tmp_path, is_trainable=True)
    assert torch.equal(logits(model), before)
    with pytest.raises(UserError, match="load the model again"):
        find_projections(model, ("q",))[0].weight()
    ailora.load_adapter(model, tmp_path)  # for inference it is as good
