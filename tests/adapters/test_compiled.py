"""Under torch.compile: the gradients are those of the model as it is, whatever is adapted.

What makes factors anchored lies in the backward pass, which Dynamo traces by itself: the loss of
the first step would be right with wrong gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.versions import is_transformers_4
from tests.adapters.any_model import base, batch, logits, train

STACKS = ["experts.gate_up_proj", "experts.down_proj"]
PRINCIPAL = {"*": Role(init="principal")}
CASES: dict[str, tuple[str, AILoRAConfig]] = {
    "layers": ("llama", AILoRAConfig(r=2)),
    "all linear layers": ("llama", presets.pissa(2, published=True)),
    "roles of a fused layer": ("gpt2", AILoRAConfig(r=2)),
    "a fused feed-forward block": ("phi3", presets.milora(2, published=True)),
    "folded": ("llama", AILoRAConfig(r=2, anchored=False)),
    "rsLoRA": ("llama", AILoRAConfig(r=2, lora_alpha=4, use_rslora=True)),
    "DoRA": ("llama", AILoRAConfig(r=2, use_dora=True)),
    "stacks of experts": ("mixtral", presets.pissa(2, published=True, target_parameters=STACKS)),
    "experts stored the other way": (
        *("gpt_oss", AILoRAConfig(r=2, roles=PRINCIPAL, target_parameters=STACKS)),
    ),
}


def gradients(model: torch.nn.Module, run: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    run(**inputs).logits.square().mean().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_model_as_it_is(case: str) -> None:
    model_type, config = CASES[case]
    if config.target_parameters and is_transformers_4():
        pytest.skip("transformers 4 keeps experts of most types as layers")
    torch._dynamo.reset()
    model = ailora.get_peft_model(base(model_type), config)
    inputs = batch(model.get_base_model())
    expected = gradients(model, model, inputs)
    found = gradients(model, torch.compile(model, backend="aot_eager"), inputs)
    assert expected and found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * scale, msg=name)
    assert any(gradient.any() for gradient in expected.values())


@pytest.mark.parametrize("wrapper", ["compiled layers", "module.", "_orig_mod."])
def test_no_wrapper_leaves_its_name_in_the_file(wrapper: str, tmp_path: Path) -> None:
    """Stock PEFT loads what was saved, and servers find one scale."""
    model = ailora.get_peft_model(base("llama"), AILoRAConfig(r=2, bake_rates=True))
    inputs = batch(model.get_base_model())
    train(model, inputs)
    expected, options = logits(model, inputs), {}
    if wrapper == "compiled layers":
        layers = model.get_base_model().model.layers
        for number, layer in enumerate(layers):
            layers[number] = torch.compile(layer, backend="aot_eager")
    else:
        options = {"state_dict": {wrapper + name: W for name, W in model.state_dict().items()}}
    model.save_pretrained(tmp_path / "adapter", **options)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(names) == 8
    assert all(name.startswith("base_model.model.model.layers.") for name in names)
    assert not any("_orig_mod" in name for name in names)
    stock = PeftModel.from_pretrained(base("llama"), str(tmp_path / "adapter"))
    assert not stock.peft_config["default"].alpha_pattern
    assert torch.equal(logits(stock, inputs), expected)
    again = ailora.load_adapter(base("llama"), tmp_path / "adapter")
    assert torch.equal(logits(again, inputs), expected)
    if wrapper == "compiled layers":
        wrapped = [name for name, _ in model.named_modules() if "_orig_mod" in name]
        assert wrapped, "the model is compiled as before"
