"""Two ways of saying the same thing must train alike, in fp64; and different things must not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

import ailora
from ailora import AILoRAConfig, Role, presets
from tests.adapters.models import batch, logits, tiny, train

STEPS = 30


def run(config: AILoRAConfig, *, rates: bool = True, lr: float = 3e-3) -> tuple[nn.Module, Tensor]:
    model = ailora.get_peft_model(tiny(), config)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = {"lr": lr, "eps": 1e-16, "weight_decay": 0.0}
    if rates:
        optimizer = ailora.create_optimizer(model, AdamW, **options)
    else:
        optimizer = AdamW(trainable, **options)
    losses = train(model, batch(model), STEPS, optimizer)
    return model, torch.tensor(losses, dtype=torch.float64)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach()
        for name, value in model.merge_and_unload().named_parameters()
        if "query.weight" in name or "value.weight" in name
    }


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("name", ["ailora", "reailora", "pissa", "milora"])
def test_anchored_and_folded_end_in_the_same_weights(name: str) -> None:
    preset = getattr(presets, name)
    anchored, anchored_losses = run(preset(4, lora_alpha=6))
    folded, folded_losses = run(preset(4, lora_alpha=6, anchored=False))
    assert anchored_losses[-1] < 0.9 * anchored_losses[0]
    assert (anchored_losses - folded_losses).abs().max() < 1e-12
    ends, start = weights_of(anchored), dict(tiny().named_parameters())
    moved = max(float((ends[key] - start[key]).abs().max()) for key in ends)
    assert largest_difference(ends, weights_of(folded)) < 1e-12 < 1e-4 < moved


@pytest.mark.parametrize("anchored", [True, False])
def test_baked_rates_need_no_optimiser_of_ours_and_end_in_the_same_weights(anchored: bool) -> None:
    groups, groups_losses = run(AILoRAConfig(r=4, anchored=anchored))  # type: ignore[arg-type]
    baked, baked_losses = run(
        AILoRAConfig(r=4, anchored=anchored, bake_rates=True),  # type: ignore[arg-type]
        rates=False,
    )
    assert (groups_losses - baked_losses).abs().max() < 1e-9
    assert largest_difference(weights_of(groups), weights_of(baked)) < 1e-9


def test_other_rates_end_elsewhere() -> None:
    """The negative control of both: a ratio of 1 is not a ratio of 2."""
    doubled, _ = run(AILoRAConfig(r=4))
    roles = {"q": Role(init="principal"), "v": Role(init="minor")}
    single, _ = run(AILoRAConfig(r=4, roles=roles))
    assert largest_difference(weights_of(doubled), weights_of(single)) > 1e-4


def test_an_ignored_ratio_trains_like_a_ratio_of_one() -> None:
    ignored, _ = run(AILoRAConfig(r=4), rates=False)
    roles = {"q": Role(init="principal"), "v": Role(init="minor")}
    single, _ = run(AILoRAConfig(r=4, roles=roles))
    assert largest_difference(weights_of(ignored), weights_of(single)) == 0


def test_weight_decay_pulls_anchored_factors_to_their_start_and_folded_ones_to_zero() -> None:
    """The documented difference: with decay the two forms part."""
    ends = {}
    for form in ("anchored", "folded"):
        model = ailora.get_peft_model(tiny(), AILoRAConfig(r=4, anchored=form == "anchored"))
        start = logits(model, batch(model))
        optimizer = ailora.create_optimizer(model, AdamW, lr=1e-2, weight_decay=50.0)
        for _ in range(20):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        ends[form] = float((logits(model, batch(model)) - start).abs().max())
    assert ends["anchored"] == 0
    assert ends["folded"] > 1e-3
