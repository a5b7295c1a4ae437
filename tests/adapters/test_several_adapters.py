"""A second adapter beside an anchored one: stock LoRA or another of ours."""

from __future__ import annotations

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.errors import UserError
from tests.adapters.models import Q0, base_weights, batch, factors, logits, move, same, tiny, train


@pytest.fixture
def model() -> PeftModel:
    """An anchored adapter trained for a few steps."""
    wrapped = ailora.get_peft_model(tiny(), AILoRAConfig(r=2))
    train(wrapped, batch(wrapped), 3)
    return wrapped


def test_a_stock_lora_beside_it_starts_at_the_base_and_leaves_it_alone(model: PeftModel) -> None:
    inputs = batch(model)
    first = logits(model, inputs)
    with model.disable_adapter():
        base = logits(model, inputs)
    model.add_adapter("stock", LoraConfig(r=4, target_modules=["query", "value"]))
    model.set_adapter("stock")
    assert torch.equal(logits(model, inputs), base)
    train(model, inputs, 2)
    assert not torch.equal(logits(model, inputs), base)
    model.set_adapter("default")
    assert torch.equal(logits(model, inputs), first)


def test_a_second_adapter_of_ours_starts_at_the_base_from_the_same_weights(
    model: PeftModel,
) -> None:
    inputs = batch(model)
    first, weights = logits(model, inputs), base_weights(model)
    with model.disable_adapter():
        base = logits(model, inputs)
    again = ailora.get_peft_model(model, presets.pissa(3), "second")
    assert again is model
    model.set_adapter("second")
    assert torch.equal(logits(model, inputs), base)
    losses = train(model, inputs, 3)
    assert losses[-1] < losses[0]
    second = logits(model, inputs)
    alone = ailora.get_peft_model(tiny(), presets.pissa(3))
    train(alone, inputs, 3)
    assert torch.equal(logits(alone, inputs), second)
    model.set_adapter("default")
    assert torch.equal(logits(model, inputs), first)
    assert same(base_weights(model), weights)


def test_switching_says_which_adapter_trains(model: PeftModel) -> None:
    ailora.get_peft_model(model, presets.milora(3), "second")

    def training() -> set[str]:
        return {
            name.split(".")[-2] for name, value in model.named_parameters() if value.requires_grad
        }

    assert training() == {"default"}
    model.set_adapter("second")
    assert training() == {"second"}
    assert len(ailora.create_optimizer(model, lr=1.0).param_groups[0]["params"]) == 8


def test_deleting_one_leaves_the_other(model: PeftModel) -> None:
    inputs = batch(model)
    first = logits(model, inputs)
    ailora.get_peft_model(model, presets.milora(3), "second")
    model.delete_adapter("second")
    assert torch.equal(logits(model, inputs), first)
    ailora.get_peft_model(model, presets.milora(3), "second")


def test_each_row_of_a_batch_can_have_its_own_adapter(model: PeftModel) -> None:
    inputs = batch(model, labels=False)
    ailora.get_peft_model(model, presets.pissa(3), "second")
    move(model, Q0, "second")
    each = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        each[name] = logits(model, inputs)
    with model.disable_adapter():
        base = logits(model, inputs)
    mixed = logits(model, {**inputs, "adapter_names": ["second", "__base__", "default"]})
    wanted = torch.stack([each["second"][0], base[1], each["default"][2]])
    torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-12)


def test_pefts_weighted_sum_makes_a_plain_adapter_of_anchored_ones(model: PeftModel) -> None:
    inputs = batch(model)
    ailora.get_peft_model(model, AILoRAConfig(r=2), "second")
    move(model, Q0, "second")
    layer = model.get_base_model().get_submodule(Q0)
    wanted = sum(layer.get_delta_weight(name) for name in ("default", "second"))
    model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "sum", combination_type="cat")
    torch.testing.assert_close(layer.get_delta_weight("sum"), wanted, rtol=0, atol=1e-12)
    assert type(layer.lora_A["sum"]) is torch.nn.Linear
    model.set_adapter("sum")
    train(model, inputs, 1)


@pytest.mark.parametrize("name", ["default", "a.b", ""])
def test_a_name_that_is_taken_or_no_name_is_refused_before_anything_changes(
    model: PeftModel, name: str
) -> None:
    before, configs = [id(module) for module in model.modules()], dict(model.peft_config)
    with pytest.raises(UserError, match=f"^adapter_name={name!r}: "):
        ailora.get_peft_model(model, AILoRAConfig(), name)
    assert [id(module) for module in model.modules()] == before
    assert model.peft_config == configs and model.active_adapter == "default"


def test_folding_under_another_adapter_is_refused(model: PeftModel) -> None:
    weights = base_weights(model)
    with pytest.raises(UserError, match="anchored=False would change the base weights"):
        ailora.get_peft_model(model, AILoRAConfig(anchored=False), "second")
    assert same(base_weights(model), weights)


def test_nothing_is_started_on_the_residual_weights_of_a_folded_adapter() -> None:
    folded = ailora.get_peft_model(tiny(), AILoRAConfig(anchored=False, r=2))
    with pytest.raises(UserError, match=r"is a residual .*adapter 'default' is folded into it"):
        ailora.get_peft_model(folded, AILoRAConfig(r=2), "second")
    plain = AILoRAConfig(anchored=False, r=2, roles={"q": Role(init="gaussian")})
    untouched = ailora.get_peft_model(tiny(), plain)
    ailora.get_peft_model(untouched, AILoRAConfig(r=2), "second")


def test_nothing_is_started_on_merged_weights(model: PeftModel) -> None:
    model.merge_adapter()
    with pytest.raises(UserError, match=r"merged into this model's weights; unmerge_adapter\(\)"):
        ailora.get_peft_model(model, AILoRAConfig(r=2), "second")


def test_a_later_cast_leaves_an_added_adapter_as_it_was_trained() -> None:
    """PEFT casts an adapter where it is added (not before 0.19), and again where it is loaded."""
    model = peft.get_peft_model(tiny(torch.bfloat16), AILoRAConfig(r=2))
    model.add_adapter("other", AILoRAConfig(r=2))
    move(model, Q0, "other")
    moved = [factor.weight.detach().clone() for factor in factors(model, Q0, "other")]
    model.base_model._cast_adapter_dtype("other")
    for factor, wanted in zip(factors(model, Q0, "other"), moved, strict=True):
        assert torch.equal(factor.weight, wanted.to(factor.weight.dtype))


@pytest.mark.parametrize("autocast", [True, False])
def test_our_own_call_casts_what_it_adds_as_pefts_casts_the_first(autocast: bool) -> None:
    model = peft.get_peft_model(
        tiny(torch.bfloat16), AILoRAConfig(r=2), autocast_adapter_dtype=autocast
    )
    ailora.get_peft_model(model, AILoRAConfig(r=2), "other", autocast_adapter_dtype=autocast)
    for first, second in zip(factors(model, Q0), factors(model, Q0, "other"), strict=True):
        assert first.weight.dtype == second.weight.dtype
        assert torch.equal(first.weight, second.weight)
        rounded = torch.equal(first.weight, first.weight.bfloat16().to(first.weight.dtype))
        assert rounded is not autocast
