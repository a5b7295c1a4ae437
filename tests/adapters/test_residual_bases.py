"""A base that holds W - B A is no pre-trained model: nothing is started, left or taken for one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from accelerate import cpu_offload, disk_offload, init_empty_weights
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.errors import UserError
from tests.adapters.models import (
    Q0,
    base_weights,
    batch,
    factors,
    logits,
    same,
    tiny,
    train,
    trained,
)

FOLDED = AILoRAConfig(r=2, anchored=False)
STOCK = LoraConfig(r=2, target_modules=["key"])
RESIDUAL = r"is a residual W - B A [^\n]+$"


def folded() -> PeftModel:
    return ailora.get_peft_model(tiny(), FOLDED)


def untouched(model: nn.Module) -> Callable[[], None]:
    """Call it after a refusal: modules, weights and logits are as they were."""
    modules, weights = [id(module) for module in model.modules()], base_weights(model)
    before = logits(model, batch(model))

    def check() -> None:
        assert [id(module) for module in model.modules()] == modules
        assert same(base_weights(model), weights)
        assert torch.equal(logits(model, batch(model)), before)

    return check


# --- Leaving it without its adapter ----------------------------------------------------------


LEAVING: dict[str, Callable[[PeftModel], Any]] = {
    "unload": lambda model: model.unload(),
    "delete": lambda model: model.delete_adapter("default"),
    "disable layers": lambda model: model.base_model.disable_adapter_layers(),
}


@pytest.mark.parametrize("how", LEAVING)
def test_what_would_leave_the_residual_is_refused(how: str) -> None:
    model = folded()
    train(model, batch(model), 2)
    check = untouched(model)
    with pytest.raises(UserError, match=r"anchored=False\)[^\n]*residual[^\n]*$"):
        LEAVING[how](model)
    check()
    assert list(model.peft_config) == ["default"]


def test_a_reference_without_the_adapter_is_refused_and_the_adapter_stays_on() -> None:
    model = folded()
    check = untouched(model)
    message = "not the pre-trained model that a reference must be"
    with pytest.raises(UserError, match=message), model.disable_adapter():
        pass
    check()
    losses = train(model, batch(model), 3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("how", LEAVING)
def test_an_anchored_adapter_can_be_left_and_leaves_the_base(how: str) -> None:
    """The negative control."""
    model = trained()
    LEAVING[how](model)
    left = model.base_model.model
    assert torch.equal(logits(left, batch(tiny())), logits(tiny(), batch(tiny())))


def test_merging_makes_it_whole_and_then_anything_can_start_there() -> None:
    model = folded()
    train(model, batch(model), 3)
    after = logits(model, batch(model))
    whole = model.merge_and_unload()
    torch.testing.assert_close(logits(whole, batch(whole)), after, rtol=0, atol=1e-12)
    again = ailora.get_peft_model(whole, AILoRAConfig(r=2))
    torch.testing.assert_close(logits(again, batch(again)), after, rtol=0, atol=1e-12)
    folded_again = ailora.get_peft_model(again.unload(), FOLDED)
    torch.testing.assert_close(logits(folded_again, batch(again)), after, rtol=0, atol=1e-11)


# --- Starting something else on it -----------------------------------------------------------

SECOND: dict[str, Any] = {
    "anchored": AILoRAConfig(r=2),
    "folded": FOLDED,
    "the lora preset": presets.lora(2),
    "reversed": presets.reailora(2, anchored=False),
}


@pytest.mark.parametrize("what", SECOND)
@pytest.mark.parametrize("way", ["beside", "the same base", "inject"])
def test_a_second_start_is_refused(what: str, way: str) -> None:
    base = tiny()
    model = ailora.get_peft_model(base, FOLDED)
    check = untouched(model)
    with pytest.raises(UserError, match=RESIDUAL):
        if way == "beside":
            model.add_adapter("second", SECOND[what])
        elif way == "inject":
            peft.inject_adapter_in_model(SECOND[what], base, "second")
        else:
            peft.get_peft_model(base, SECOND[what], "second")
    check()
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("stock", [STOCK, LoraConfig(r=2, target_modules=["query"])])
def test_a_stock_adapter_beside_it_is_refused(stock: LoraConfig) -> None:
    model = folded()
    check = untouched(model)
    with pytest.raises(UserError, match=RESIDUAL):
        model.add_adapter("second", copy.deepcopy(stock))
    check()


def test_a_saved_adapter_beside_it_is_refused(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path / "ours")
    peft.get_peft_model(tiny(), copy.deepcopy(STOCK)).save_pretrained(tmp_path / "stock")
    model = folded()
    check = untouched(model)
    with pytest.raises(UserError, match=RESIDUAL):
        ailora.load_adapter(model, tmp_path / "ours", "second")
    with pytest.raises(UserError, match=RESIDUAL):
        model.load_adapter(str(tmp_path / "stock"), "second")
    check()


def test_a_deep_copy_of_the_base_is_a_residual_too() -> None:
    base = tiny()
    ailora.get_peft_model(base, FOLDED)
    for residual in (copy.deepcopy(base), copy.deepcopy(folded()).get_base_model()):
        with pytest.raises(UserError, match=RESIDUAL):
            ailora.get_peft_model(residual, AILoRAConfig(r=2), "second")


def test_a_gaussian_start_changes_nothing_and_refuses_nothing() -> None:
    """The negative control: without a start in W there is no residual."""
    roles = {"q": Role(init="gaussian")}
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=2, anchored=False, roles=roles))
    model.add_adapter("second", AILoRAConfig(r=2))
    model.add_adapter("third", copy.deepcopy(STOCK))
    with model.disable_adapter():
        assert torch.equal(logits(model, batch(model)), logits(tiny(), batch(model)))
    model.delete_adapter("default")
    assert torch.equal(logits(model.unload(), batch(model)), logits(tiny(), batch(model)))


# --- Residuals that PEFT's own starts leave --------------------------------------------------


def of_peft(init: str) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=init)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("config", [AILoRAConfig(r=2), FOLDED, presets.lora(2)])
def test_no_start_is_made_on_what_pefts_starts_leave(init: str, config: AILoRAConfig) -> None:
    base = tiny(torch.float32)
    model = peft.get_peft_model(base, of_peft(init))
    assert not torch.allclose(
        model.get_base_model().get_submodule(Q0).base_layer.weight,
        tiny(torch.float32).get_submodule(Q0).weight,
    )
    check = untouched(model)
    with pytest.raises(UserError, match=init):
        model.add_adapter("second", config)
    check()
    residual = model.unload()
    assert not torch.allclose(
        logits(residual, batch(residual)), logits(tiny(torch.float32), batch(residual))
    )
    with pytest.raises(UserError, match=init):
        peft.get_peft_model(residual, config)


def test_a_stock_lora_that_leaves_the_base_alone_is_no_residual() -> None:
    """The negative control."""
    model = peft.get_peft_model(tiny(), LoraConfig(r=2, target_modules=["query"]))
    again = ailora.get_peft_model(model.unload(), AILoRAConfig(r=2))
    assert torch.equal(logits(again, batch(again)), logits(tiny(), batch(again)))


def test_a_merged_stock_start_is_whole_again() -> None:
    whole = peft.get_peft_model(tiny(torch.float32), of_peft("pissa")).merge_and_unload()
    before = logits(whole, batch(whole))
    model = ailora.get_peft_model(whole, AILoRAConfig(r=2))
    assert torch.equal(logits(model, batch(model)), before)


# --- Bases that cannot be folded into --------------------------------------------------------


@pytest.fixture
def int8(tmp_path: Path) -> Callable[[], nn.Module]:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.2,
    )  # fmt: skip
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    kind = hf.BitsAndBytesConfig(load_in_8bit=True)
    return lambda quantise=True: hf.AutoModelForCausalLM.from_pretrained(
        tmp_path / "llama",
        dtype=torch.float32,
        **({"quantization_config": kind, "device_map": "cpu"} if quantise else {}),
    ).eval()


def test_a_folded_adapter_is_not_loaded_onto_a_quantised_base(
    int8: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model = ailora.get_peft_model(int8(False), presets.pissa(4, anchored=False))
    model.save_pretrained(tmp_path / "adapter")
    quantised = int8()
    ids = {"input_ids": torch.arange(5, 29).reshape(3, 8)}
    before = logits(quantised, ids)
    for start in (
        lambda: ailora.load_adapter(quantised, tmp_path / "adapter"),
        lambda: ailora.get_peft_model(quantised, presets.pissa(4, anchored=False)),
    ):
        with pytest.raises(
            UserError, match=r"would change the quantised weight of model\.layers\.0"
        ):
            start()
    assert "lora" not in str(quantised)
    assert torch.equal(logits(quantised, ids), before)
    again = ailora.load_adapter(int8(False), tmp_path / "adapter")
    torch.testing.assert_close(logits(again, ids), logits(int8(False), ids), rtol=0, atol=1e-4)


class Kernel(nn.Module):
    """A 4-bit kernel's layer, seen from outside: numbers that nobody here can read."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("qweight", (layer.weight * 100).round().to(torch.int8))
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.qweight.to(x.dtype) / 100)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("which", [["q_proj", "v_proj"], ["v_proj"]])
def test_a_base_of_which_some_layers_cannot_be_adapted_is_refused_with_their_names(
    which: list[str], anchored: bool
) -> None:
    model = tiny(family="llama")
    attention = model.model.layers[0].self_attn
    for name in which:
        setattr(attention, name, Kernel(getattr(attention, name)))
    with pytest.raises(UserError, match=rf"model\.layers\.0\.self_attn\.{which[0]}[^\n]*Kernel"):
        ailora.get_peft_model(model, AILoRAConfig(r=2, anchored=anchored))
    assert "lora" not in str(model)
    chosen = ailora.get_peft_model(
        model, AILoRAConfig(r=2, anchored=anchored, layers_to_transform=[1])
    )
    assert any(parameter.requires_grad for parameter in chosen.parameters())


# --- Models in other states ------------------------------------------------------------------


@pytest.mark.parametrize("anchored", [True, False])
def test_a_start_after_all_adapters_were_deleted(anchored: bool) -> None:
    model = trained()
    model.delete_adapter("default")
    again = ailora.get_peft_model(model, AILoRAConfig(r=2, anchored=anchored))
    assert again.active_adapters == ["default"]
    torch.testing.assert_close(
        logits(again, batch(again)), logits(tiny(), batch(again)), rtol=0, atol=1e-11
    )
    losses = train(again, batch(again), 3)
    assert losses[-1] < losses[0]


def test_loading_after_all_adapters_were_deleted(folder: Path) -> None:
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=3))
    model.delete_adapter("default")
    again = ailora.load_adapter(model, folder, is_trainable=True)
    wanted = ailora.load_adapter(tiny(), folder)
    assert torch.equal(logits(again, batch(again)), logits(wanted, batch(wanted)))


def offloaded(how: str, model: nn.Module, folder: Path) -> nn.Module:
    device = torch.device("cpu")
    if how == "cpu":
        return cpu_offload(model, execution_device=device)
    return disk_offload(model, str(folder), execution_device=device)


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_an_adapted_model_that_accelerate_keeps_elsewhere_computes_the_same(
    how: str, tmp_path: Path
) -> None:
    model = trained(dtype=torch.float32)
    wanted = logits(model, batch(model))
    found = logits(offloaded(how, model, tmp_path), batch(tiny()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_a_start_from_weights_that_accelerate_keeps_elsewhere_is_right_or_refused(
    how: str, tmp_path: Path
) -> None:
    """Stock PEFT's answers are NaN there (its factors go to the meta device at a forward pass)."""
    base = tiny(torch.float32)
    before = logits(base, batch(base))
    base = offloaded(how, base, tmp_path)
    assert base.get_submodule(Q0).weight.is_meta
    try:
        model = ailora.get_peft_model(base, AILoRAConfig(r=2))
    except UserError:
        assert "lora" not in str(base)
        return
    assert torch.equal(logits(model, batch(tiny())), before)
    wanted = ailora.get_peft_model(tiny(torch.float32), AILoRAConfig(r=2))
    assert torch.equal(factors(model, Q0)[0].weight, factors(wanted, Q0)[0].weight)


def test_a_base_without_values_is_refused_by_the_layer(folder: Path) -> None:
    with init_empty_weights():
        empty = tiny(torch.float32)
    for start in (
        lambda: ailora.get_peft_model(empty, AILoRAConfig(r=2)),
        lambda: ailora.get_peft_model(empty, FOLDED),
        lambda: ailora.load_adapter(empty, folder),
    ):
        with pytest.raises(UserError, match=rf"^{Q0}[^\n]* is on the meta device[^\n]*$"):
            start()
    assert "lora" not in str(empty)


def test_a_folded_adapter_that_was_merged_in_place_can_be_unloaded() -> None:
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=2, anchored=False))
    train(model, batch(model), 2)
    wanted = logits(model, batch(model))
    model.merge_adapter()
    whole = model.unload()
    torch.testing.assert_close(logits(whole, batch(whole)), wanted, rtol=0, atol=1e-12)
    again = ailora.get_peft_model(whole, AILoRAConfig(r=2))
    torch.testing.assert_close(logits(again, batch(whole)), wanted, rtol=0, atol=1e-12)
