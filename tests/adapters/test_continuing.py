"""Several adapters at once, a second start from a merged model, files cast by others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

import ailora
from ailora import presets
from ailora.errors import UserError
from tests.adapters.models import (
    base_weights,
    batch,
    encoder,
    logits,
    parts,
    same,
    sentences,
    tiny,
    train,
    trained,
)
from tests.other_process import run_elsewhere

AGAIN = """
import sys
from pathlib import Path
from safetensors.torch import save_file
import torch
torch.set_num_threads(1)
import ailora
from tests.adapters.models import batch, logits, tiny
folder = Path(sys.argv[1])
model = ailora.load_adapter(tiny(), folder / "first", "first")
ailora.load_adapter(model, folder / "second", "second", is_trainable=True)
found = {}
for name in ("first", "second", "first"):
    model.set_adapter(name)
    found[name] = logits(model, batch(model))
save_file(found, folder / "found.safetensors")
"""


def test_two_adapters_come_back_exactly_in_a_fresh_process(tmp_path: Path) -> None:
    model = ailora.get_peft_model(tiny(), presets.ailora(2), "first")
    ailora.get_peft_model(model, presets.pissa(3, lora_alpha=5), "second")
    wanted = {}
    for name in ("first", "second"):
        model.set_adapter(name)
        train(model, batch(model), 3)
        wanted[name] = logits(model, batch(model))
    model.save_pretrained(tmp_path)
    run_elsewhere(AGAIN, tmp_path)
    assert same(load_file(tmp_path / "found.safetensors"), wanted)
    assert not torch.allclose(wanted["first"], wanted["second"])


def test_both_of_two_saved_adapters_load_in_stock_peft(tmp_path: Path) -> None:
    model = ailora.get_peft_model(tiny(), presets.ailora(2), "first")
    ailora.get_peft_model(model, presets.milora(3), "second")
    model.set_adapter("second")
    train(model, batch(model), 3)
    model.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path / "first"), "first")
    stock.load_adapter(str(tmp_path / "second"), "second")
    for name in ("first", "second"):
        model.set_adapter(name)
        stock.set_adapter(name)
        torch.testing.assert_close(
            logits(stock, batch(stock)), logits(model, batch(model)), rtol=0, atol=1e-12
        )


def merged() -> torch.nn.Module:
    return trained().merge_and_unload()


def test_a_second_start_from_a_merged_model_trains_and_needs_that_model(tmp_path: Path) -> None:
    base = merged()
    before = logits(base, batch(base))
    model = ailora.get_peft_model(base, presets.ailora(3))
    assert torch.equal(logits(model, batch(model)), before)
    losses = train(model, batch(model), 4)
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    after = logits(model, batch(model))
    again = ailora.load_adapter(merged(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, batch(again)), after)
    with pytest.raises(UserError, match="was started on another base model"):
        ailora.load_adapter(tiny(), tmp_path)
    elsewhere = ailora.load_adapter(tiny(), tmp_path, force=True)
    assert not torch.allclose(logits(elsewhere, batch(elsewhere)), after, atol=1e-3)
    assert "merged or otherwise changed model, keep it" in (tmp_path / "README.md").read_text()


def test_a_folded_start_is_not_folded_twice(tmp_path: Path) -> None:
    model = trained(anchored=False)
    model.save_pretrained(tmp_path)
    residual = tiny()
    residual.load_state_dict(base_weights(model), strict=False)
    weights = base_weights(residual)
    with pytest.raises(UserError, match=r"its start is already taken out of bert[^\n]*$") as caught:
        ailora.load_adapter(residual, tmp_path)
    assert "load it with peft.PeftModel.from_pretrained there" in str(caught.value)
    assert same(base_weights(residual), weights)
    stock = PeftModel.from_pretrained(residual, str(tmp_path))
    torch.testing.assert_close(
        logits(stock, batch(stock)), logits(model, batch(model)), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", ["ailora", "pissa", "milora"])
def test_a_folded_start_in_a_16_bit_base_loads_and_is_not_folded_twice(
    dtype: torch.dtype, preset: str, tmp_path: Path
) -> None:
    model = ailora.get_peft_model(encoder(dtype), getattr(presets, preset)(8, anchored=False))
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(encoder(dtype), tmp_path)
    assert torch.equal(logits(again, sentences()), logits(model, sentences()))
    with pytest.raises(UserError, match="already taken out"):
        ailora.load_adapter(residual_of(again), tmp_path)


def residual_of(model: PeftModel) -> torch.nn.Module:
    """A model in another process that has the residual weights, as `ailora init` writes them."""
    dtype = next(model.parameters()).dtype
    residual = encoder(dtype)
    residual.load_state_dict(base_weights(model), strict=False)
    return residual


def updates(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """B' A' of every module, fp64, from the file alone."""
    pairs = {key: key.replace("lora_A", "lora_B") for key in tensors if "lora_A" in key}
    return {A: tensors[B].double() @ tensors[A].double() for A, B in pairs.items()}


def worst(exact: dict[str, Tensor], cast: dict[str, Tensor]) -> float:
    return max(
        float(torch.linalg.norm(cast[key] - dW) / torch.linalg.norm(dW))
        for key, dW in exact.items()
    )


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.004), (torch.float16, 0.0005)])
def test_a_file_cast_to_16_bits_keeps_the_update(
    dtype: torch.dtype, most: float, tmp_path: Path
) -> None:
    """||dW - dW_cast|| / ||dW||, after a short training of the real encoder."""
    model = ailora.get_peft_model(encoder(), presets.ailora(8))
    train(model, sentences(labels=True), 5, lr=2e-4)
    model.save_pretrained(tmp_path)
    exact = load_file(tmp_path / "adapter_model.safetensors")
    cast = {key: value.to(dtype) for key, value in exact.items()}
    assert 0 < worst(updates(exact), updates(cast)) < most

    halves = {}  # negative control: [A; A0] and [B, -B0] say the same and cancel
    for key, part in parts(model).items():
        halves[f"{key}.lora_A"] = torch.cat([part.A, part.A0])
        halves[f"{key}.lora_B"] = torch.cat([part.B, -part.B0], dim=1)
    rough = {key: value.to(dtype) for key, value in halves.items()}
    assert worst(updates(halves), updates(rough)) > 20 * most

    save_file(cast, tmp_path / "adapter_model.safetensors")
    again = ailora.load_adapter(encoder(), tmp_path, is_trainable=True)
    torch.testing.assert_close(
        logits(again, sentences()), logits(model, sentences()), rtol=0, atol=most
    )
