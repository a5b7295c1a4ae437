"""The library's promises on one device: the processor, or what ``AILORA_TEST_DEVICE`` names.

    AILORA_TEST_DEVICE=cuda python -m pytest tests/test_device.py

Models are random and tiny, so that this needs no network. ``tools/on_gpu.py`` runs it on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

import ailora
from ailora import AILoRAConfig, Role
from tests.families import FAMILIES, VOCAB, inputs_for

DEVICE = torch.device(os.environ.get("AILORA_TEST_DEVICE", "cpu"))
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((48, 48), (200, 120), (96, 300), (1100, 1100))  # dense, Gram, Gram, Krylov and inverse
STOCK = """
import sys
sys.modules["ailora"] = None  # cannot be imported
import peft, torch, transformers
from safetensors.torch import load_file
base, adapter, wanted, device = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(base).to(device)
model = peft.PeftModel.from_pretrained(model, adapter).eval().to(device)
file = {name: value.to(device) for name, value in load_file(wanted).items()}
with torch.no_grad():
    found = model(input_ids=file["input_ids"]).logits
print(float((found - file["logits"]).abs().max()))
"""


def tiny(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return (gpt2() if family == "gpt2" else FAMILIES[family]()).to(DEVICE, dtype)


def gpt2() -> PreTrainedModel:
    """Query, key and value in one weight, which lies transposed."""
    torch.manual_seed(0)
    sizes = {"n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, initializer_range=0.2, **sizes)).eval()


def batch(family: str, model: nn.Module) -> dict[str, Tensor]:
    like = "llama" if family == "gpt2" else family
    inputs = inputs_for(like, model, labels=True)
    return {name: value.to(DEVICE) for name, value in inputs.items()}


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model.eval()(**inputs).logits.clone()


def train(model: nn.Module, inputs: dict[str, Tensor], steps: int = 3) -> list[float]:
    optimizer = ailora.create_optimizer(model, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def hard(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A weight whose singular values span five decades, as it is stored in a data type."""
    generator = torch.Generator().manual_seed(sum(shape))
    k = min(shape)
    U, V = (
        torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64)).Q
        for n in shape
    )
    S = torch.logspace(0, -5 if dtype == torch.float32 else -2, k, dtype=torch.float64)
    return ((U * S) @ V.T).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", ["principal", "minor"])
@pytest.mark.parametrize("shape", SHAPES)
def test_triplets_are_those_of_numpy_in_fp64(
    shape: tuple[int, int], part: Any, dtype: torch.dtype
) -> None:
    weight, rank = hard(shape, dtype), 4
    found = ailora.decompose(weight, rank, part)
    assert found.U.device.type == found.S.device.type == found.Vt.device.type == DEVICE.type
    W = weight.double().cpu().numpy()
    S = np.linalg.svd(W, compute_uv=False)
    wanted = S[:rank] if part == "principal" else S[-rank:]
    np.testing.assert_allclose(found.S.cpu().numpy(), wanted, atol=1e-8 * S[0], rtol=0)
    U, Vt = found.U.cpu().numpy(), found.Vt.cpu().numpy()
    assert np.linalg.norm(W @ Vt.T - U * found.S.cpu().numpy(), 2) <= 1e-7 * S[0]
    np.testing.assert_allclose(U.T @ U, np.eye(rank), atol=1e-9)
    other = S[-rank:] if part == "principal" else S[:rank]
    assert np.abs(found.S.cpu().numpy() - other).max() > 1e-3 * S[0]  # the wrong end would fail


@pytest.mark.parametrize("part", ["principal", "minor"])
def test_the_same_call_gives_the_same_bits(part: Any) -> None:
    weight = hard((1100, 1100), torch.float32)
    first, second = (ailora.decompose(weight, 8, part) for _ in range(2))
    assert torch.equal(first.U, second.U) and torch.equal(first.Vt, second.Vt)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "t5"])
def test_step_0_is_exact_and_training_leaves_the_base_as_it_was(
    family: str, dtype: torch.dtype
) -> None:
    model = tiny(family, dtype)
    inputs = batch(family, model)
    before = logits(model, inputs)
    model = ailora.get_peft_model(model, AILoRAConfig(r=4))
    assert torch.equal(logits(model, inputs), before)
    losses = train(model, inputs)
    assert losses[-1] < losses[0]
    assert not torch.equal(logits(model, inputs), before)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), before)


def test_a_model_wrapped_elsewhere_and_moved_here_is_the_same() -> None:
    model = FAMILIES["llama"]()
    model = ailora.get_peft_model(model, AILoRAConfig(r=4)).to(DEVICE)
    inputs = batch("llama", model)
    with model.disable_adapter():
        before = logits(model, inputs)
    assert torch.equal(logits(model, inputs), before)
    losses = train(model, inputs)
    assert losses[-1] < losses[0]


def test_it_trains_in_bf16_with_autocast_and_gradient_checkpointing() -> None:
    model = tiny("llama")
    inputs = batch("llama", model)
    model = ailora.get_peft_model(model, AILoRAConfig(r=4))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        losses = train(model.train(), inputs, steps=5)
    assert losses[-1] < losses[0]


def end_of(**fields: Any) -> Tensor:
    """Logits after a short training in fp64."""
    model = tiny("llama", torch.float64)
    inputs = batch("llama", model)
    config = AILoRAConfig(r=4, **fields)
    model = ailora.get_peft_model(model, config, autocast_adapter_dtype=False)
    train(model, inputs)
    return logits(model, inputs)


def test_the_folded_form_ends_where_the_anchored_one_does() -> None:
    torch.testing.assert_close(end_of(), end_of(anchored=False), rtol=0, atol=1e-7)


def test_baked_rates_train_as_parameter_groups_do() -> None:
    torch.testing.assert_close(end_of(bake_rates=True), end_of(), rtol=0, atol=1e-5)


def test_what_is_saved_loads_in_stock_peft_in_another_process(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").to(DEVICE)
    inputs = batch("llama", model)
    roles = {"q": Role(init="principal"), "v": Role(init="minor"), "*": Role(init="gaussian")}
    config = AILoRAConfig(r=4, roles=roles, target_modules="all-linear", task_type="CAUSAL_LM")
    model = ailora.get_peft_model(model, config)
    train(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    ids = {"input_ids": inputs["input_ids"]}
    after = {**ids, "logits": logits(model, ids)}
    save_file({name: value.cpu() for name, value in after.items()}, tmp_path / "after")
    paths = [str(tmp_path / name) for name in ("base", "adapter", "after")]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *paths, str(DEVICE)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) <= 1e-5
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").to(DEVICE)
    again = ailora.load_adapter(base, tmp_path / "adapter", is_trainable=True)
    torch.testing.assert_close(logits(again, ids), after["logits"], rtol=0, atol=1e-5)


def test_merging_gives_the_trained_function() -> None:
    model = tiny("llama")
    inputs = batch("llama", model)
    model = ailora.get_peft_model(model, AILoRAConfig(r=4))
    train(model, inputs)
    after = logits(model, inputs)
    torch.testing.assert_close(logits(model.merge_and_unload(), inputs), after, rtol=0, atol=1e-4)
