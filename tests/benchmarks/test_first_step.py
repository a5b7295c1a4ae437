"""The size of Adam's first step from a start, against steps that Adam takes in stock PEFT."""

from __future__ import annotations

import math
from collections.abc import Callable

import peft
import pytest
import torch
from benchmarks.first_step import first_step
from torch import Tensor, nn

from ailora import AILoRAConfig, Role, presets
from ailora.errors import UserError
from tests.adapters.models import batch, tiny

RATE, SEEDS = 1e-6, 6


def stepped(init: bool | str, *, rank: int, alpha: float) -> dict[str, float]:
    """||dW|| over the rate, by layer: one step of Adam in stock PEFT and fp64, mean over seeds."""
    squares: dict[str, float] = {}
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=["query", "value"], init_lora_weights=init
        )
        model = peft.get_peft_model(tiny(torch.float32), config).double().eval()
        layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
        before = {name: update(layer) for name, layer in layers.items()}
        factors = [p for name, p in model.named_parameters() if "lora_" in name]
        optimizer = torch.optim.Adam(factors, lr=RATE, eps=1e-30)
        loss = model(**batch(model)).loss
        loss.backward()
        optimizer.step()
        for name, layer in layers.items():
            moved = float(torch.linalg.norm(update(layer) - before[name])) / RATE
            squares[name] = squares.get(name, 0.0) + moved**2 / SEEDS
    return {name.removeprefix("base_model.model."): s**0.5 for name, s in squares.items()}


@torch.no_grad()
def update(layer: nn.Module) -> Tensor:
    A, B = layer.lora_A["default"].weight.clone(), layer.lora_B["default"].weight.clone()
    return layer.scaling["default"] * B @ A


@pytest.mark.parametrize("alpha", [2.0, 4.0, 16.0])
@pytest.mark.parametrize(("preset", "init"), [(presets.lora, True), (presets.pissa, "pissa")])
def test_it_is_the_step_that_adam_takes_in_stock_peft(
    preset: Callable[..., AILoRAConfig], init: bool | str, alpha: float
) -> None:
    found = first_step(tiny(), preset(r=4, lora_alpha=alpha))
    real = stepped(init, rank=4, alpha=alpha)
    assert found.layers.keys() == real.keys()
    for name, length in real.items():
        assert found.layers[name] == pytest.approx(length, rel=0.25), name
    assert found.total == pytest.approx(math.hypot(*real.values()), rel=0.1)
    # Another start's step is told from this one.
    other = presets.lora if init == "pissa" else presets.pissa
    assert first_step(tiny(), other(r=4, lora_alpha=alpha)).total != pytest.approx(
        math.hypot(*real.values()), rel=0.15
    )


def test_a_matched_start_steps_as_far_as_lora_and_a_larger_one_farther() -> None:
    matched = {name: Role(init="principal", scale="matched") for name in ("q", "v")}
    lora, same = (
        first_step(tiny(), c).total for c in (presets.lora(r=4), AILoRAConfig(r=4, roles=matched))
    )
    assert same == pytest.approx(lora, rel=1e-9)
    pissa, milora = (first_step(tiny(), one(r=4)).total for one in (presets.pissa, presets.milora))
    assert pissa > lora and pissa > milora


@pytest.mark.parametrize("bake", [False, True])
def test_a_roles_rate_counts_wherever_it_is_kept(bake: bool) -> None:
    for init in ("gaussian", "principal"):
        once, twice = (
            first_step(
                tiny(),
                AILoRAConfig(r=4, bake_rates=bake, roles={"v": Role(init=init, lr_ratio=ratio)}),
            )
            for ratio in (1.0, 2.0)
        )
        assert twice.total == pytest.approx(2 * once.total, rel=1e-9)


def test_loras_step_at_another_rank_and_scale() -> None:
    small, big, scaled = (
        first_step(tiny(), presets.lora(r=r, lora_alpha=alpha)).total
        for r, alpha in ((4, 4), (16, 16), (4, 8))
    )
    assert big == pytest.approx(2 * small)
    assert scaled == pytest.approx(2 * small)


def test_what_is_no_linear_layer_is_refused_by_name() -> None:
    config = presets.lora(r=4, target_modules=["query", "word_embeddings"])
    with pytest.raises(UserError, match=r"word_embeddings is no linear layer: the size of its"):
        first_step(tiny(), config)
