"""What the anchored form promises, on the embedded real encoder."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ailora
from ailora import AILoRAConfig, presets
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
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_0_and_a_disabled_adapter_are_the_base_model_bit_for_bit(dtype: torch.dtype) -> None:
    base, inputs = encoder(dtype), sentences()
    before = logits(base, inputs)
    model = ailora.get_peft_model(base, AILoRAConfig(r=8, lora_alpha=24))
    assert torch.equal(logits(model, inputs), before)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_leaves_the_base_bit_for_bit_and_so_does_disabling(dtype: torch.dtype) -> None:
    base, inputs = encoder(dtype), sentences(labels=True)
    before, weights = logits(base, inputs), base_weights(base)
    model = ailora.get_peft_model(base, AILoRAConfig(r=4))
    losses = train(model, inputs, 3)
    assert losses[-1] < losses[0]
    assert not torch.equal(logits(model, inputs), before)
    assert same(base_weights(model), weights)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_over_16_bit_weights_are_fp32_unless_asked_otherwise(dtype: torch.dtype) -> None:
    for autocast, wanted in ((True, torch.float32), (False, dtype)):
        model = ailora.get_peft_model(
            tiny(dtype), AILoRAConfig(r=2), autocast_adapter_dtype=autocast
        )
        held = [value for name, value in model.state_dict().items() if "lora_" in name]
        assert {value.dtype for value in held} == {wanted}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_step_0_is_the_base_with_16_bit_factors_too(dtype: torch.dtype) -> None:
    base, inputs = encoder(dtype), sentences()
    before = logits(base, inputs)
    model = ailora.get_peft_model(base, AILoRAConfig(r=8), autocast_adapter_dtype=False)
    assert torch.equal(logits(model, inputs), before)


def test_what_trains_is_of_rank_r_in_matrices_of_rank_2r() -> None:
    """A' and B' are whole parameters; of B' half never moves, and the halves of A' move alike."""
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=4))
    assert model.get_nb_trainable_parameters()[0] == 4 * 8 * (32 + 32)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, batch(model), 3)
    free = 0
    for name, value in model.named_parameters():
        moved = value.detach() - start[name]
        if "lora_A" in name:
            upper, lower = moved.chunk(2)
            torch.testing.assert_close(upper, lower, rtol=0, atol=1e-14)
            free += int((lower != 0).sum())
        elif "lora_B" in name:
            assert not moved[:, 4:].any()
            free += int((moved != 0).sum())
        else:
            assert not moved.any()
    assert free == 4 * 4 * (32 + 32)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_16_bit_factors_keep_their_anchors_over_a_training(decay: float, tmp_path: Path) -> None:
    model = ailora.get_peft_model(
        encoder(torch.bfloat16), AILoRAConfig(r=8), autocast_adapter_dtype=False
    )
    start = {key: (part.A0.clone(), part.B0.clone()) for key, part in parts(model).items()}
    optimizer = ailora.create_optimizer(model, lr=1e-4, weight_decay=decay)
    train(model, sentences(labels=True), 60, optimizer)
    for key, part in parts(model).items():
        for now, then in zip((part.A0, part.B0), start[key], strict=True):
            assert (now - then).float().norm() < 0.01 * then.float().norm(), key
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(
        encoder(torch.bfloat16), tmp_path, is_trainable=True, autocast_adapter_dtype=False
    )
    assert torch.equal(logits(again, sentences()), logits(model, sentences()))


@pytest.mark.parametrize("name", ["ailora", "lora"])
def test_merging_equals_the_adapter_and_unmerging_returns_to_the_base(name: str) -> None:
    base, inputs = encoder(), sentences(labels=True)
    weights = base_weights(base)
    model = ailora.get_peft_model(base, getattr(presets, name)(4))
    train(model, inputs, 3)
    adapted = logits(model, inputs)
    model.merge_adapter()
    assert not same(base_weights(model), weights)
    torch.testing.assert_close(logits(model, inputs), adapted, rtol=0, atol=2e-6)
    model.unmerge_adapter()
    for key, value in base_weights(model).items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-6)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged, inputs), adapted, rtol=0, atol=2e-6)
    assert not any("lora" in key for key, _ in merged.named_modules())


def test_an_untrained_adapter_merges_to_exactly_the_base() -> None:
    base = tiny(torch.float32)
    weights = base_weights(base)
    merged = ailora.get_peft_model(base, AILoRAConfig(r=4)).merge_and_unload()
    assert same(base_weights(merged), weights)


def wrapped_and_trained() -> tuple[torch.nn.Module, dict[str, Tensor]]:
    base = tiny()
    inputs = {"input_ids": torch.arange(5, 29).reshape(3, 8), "labels": torch.tensor([0, 1, 0])}
    model = ailora.get_peft_model(base, AILoRAConfig(r=2))
    train(model, inputs, 2)
    return model, inputs


def test_a_deep_copy_is_equal_and_independent() -> None:
    model, inputs = wrapped_and_trained()
    before, other = logits(model, inputs), copy.deepcopy(model)
    assert torch.equal(logits(other, inputs), before)
    train(other, inputs, 2)
    assert torch.equal(logits(model, inputs), before)
    assert not torch.equal(logits(other, inputs), before)


def test_a_deep_copy_saves_its_own_anchors(tmp_path) -> None:
    model, inputs = wrapped_and_trained()
    other = copy.deepcopy(model)
    train(other, inputs, 2)
    other.save_pretrained(tmp_path)
    loaded = ailora.load_adapter(tiny(), tmp_path)
    torch.testing.assert_close(logits(loaded, inputs), logits(other, inputs), rtol=0, atol=1e-12)


def test_a_pickled_model_comes_back_equal_and_trainable() -> None:
    model, inputs = wrapped_and_trained()
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert train(again, inputs, 3) == train(model, inputs, 3)


def test_half_of_a_model_cast_afterwards_still_runs_from_the_base() -> None:
    model = ailora.get_peft_model(tiny(torch.float32), AILoRAConfig(r=2)).to(torch.bfloat16)
    inputs = {"input_ids": torch.arange(5, 29).reshape(3, 8)}
    with model.disable_adapter():
        base = logits(model, inputs)
    assert torch.equal(logits(model, inputs), base)


def test_gradient_checkpointing_trains_the_same() -> None:
    losses = []
    for checkpointing in (False, True):
        model = ailora.get_peft_model(tiny(), AILoRAConfig(r=2))
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
        inputs = {"input_ids": torch.arange(5, 29).reshape(3, 8), "labels": torch.tensor([0, 1, 0])}
        losses.append(train(model, inputs, 3))
    assert losses[0] == losses[1]
