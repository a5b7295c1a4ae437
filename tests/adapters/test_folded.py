"""The paper's own form: W <- W - s B A in the base, and what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ailora
from ailora import AILoRAConfig, Role
from ailora.errors import UserError
from tests.adapters.models import Q0, V0, base_weights, batch, factors, logits, same, tiny, train


@pytest.mark.parametrize("alpha", [None, 10])
@pytest.mark.parametrize("baked", [False, True])
def test_residual_plus_factors_is_the_weight(alpha: float | None, baked: bool) -> None:
    original = tiny()
    model = ailora.get_peft_model(
        tiny(),
        AILoRAConfig(r=4, lora_alpha=alpha, anchored=False, bake_rates=baked),  # type: ignore[arg-type]
    )
    for name in (Q0, V0):
        layer = model.get_base_model().get_submodule(name)
        A, B = factors(model, name)
        scale = layer.scaling["default"]
        total = layer.base_layer.weight + scale * B.weight @ A.weight
        torch.testing.assert_close(total, original.get_submodule(name).weight, rtol=0, atol=1e-12)
        assert A.weight.shape == (4, 32)


def test_other_weights_stay_as_they_were() -> None:
    before = base_weights(tiny())
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=4, anchored=False))
    after = base_weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {
        name.replace("layer.0", f"layer.{layer}") + ".weight"
        for name in (Q0, V0)
        for layer in (0, 1)
    }


def test_step_0_is_the_base_up_to_rounding() -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        base = tiny(dtype)
        before = logits(base, batch(base))
        model = ailora.get_peft_model(base, AILoRAConfig(r=4, anchored=False))
        torch.testing.assert_close(logits(model, batch(model)), before, rtol=0, atol=tolerance)


def test_what_bf16_rounding_of_the_residual_costs_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ailora.get_peft_model(tiny(torch.bfloat16), AILoRAConfig(r=2, anchored=False))
    (record,) = [record for record in caplog.records if "rounding W - B A" in record.message]
    assert "anchored=True loses nothing" in record.message
    caplog.clear()
    ailora.get_peft_model(tiny(torch.float32), AILoRAConfig(r=2, anchored=False))
    assert not caplog.records


@pytest.mark.parametrize(
    ("field", "value"), [("lora_dropout", 0.1), ("use_dora", True), ("lora_bias", True)]
)
def test_what_a_residual_base_cannot_have_is_refused_by_name(field: str, value: object) -> None:
    model = tiny()
    weights, modules = base_weights(model), [id(module) for module in model.modules()]
    with pytest.raises(
        UserError, match=f"^{field}={value} with anchored=False [^\n]*anchored=True"
    ):
        ailora.get_peft_model(model, AILoRAConfig(r=2, anchored=False, **{field: value}))
    assert same(base_weights(model), weights)
    assert [id(module) for module in model.modules()] == modules
    roles = {"q": Role(init="gaussian")}  # which takes nothing out of W
    ailora.get_peft_model(tiny(), AILoRAConfig(r=2, anchored=False, roles=roles, **{field: value}))
    ailora.get_peft_model(tiny(), AILoRAConfig(r=2, **{field: value}))


@pytest.mark.parametrize("alpha", [0.1, 0.7, 7.0])
def test_a_reload_folds_to_the_same_bits_whatever_the_scale(alpha: float, tmp_path: Path) -> None:
    config = AILoRAConfig(r=3, lora_alpha=alpha, anchored=False, bake_rates=True)
    model = ailora.get_peft_model(tiny(), config)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path)
    ours, theirs = base_weights(model), base_weights(again)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_the_anchors_of_both_factors_travel_along(tmp_path: Path) -> None:
    roles = {"q": Role(init="principal"), "v": Role(init="gaussian")}
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=3, anchored=False, roles=roles))
    A0 = factors(model, Q0)[0].weight.detach().clone()
    train(model, batch(model), 2)
    model.save_pretrained(tmp_path)
    anchors = load_file(tmp_path / "ailora_anchor.safetensors")
    assert set(anchors) == {
        f"{Q0.replace('layer.0', layer)}.{letter}"
        for layer in ("layer.0", "layer.1")
        for letter in "AB"
    }
    assert torch.equal(anchors[f"{Q0}.A"], A0)
