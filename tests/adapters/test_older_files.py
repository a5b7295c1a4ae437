"""Adapters that version 0.1.0 saved: what they computed, they compute; what trained, trains on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

import ailora
from ailora.adapters.marker import needs_model, read_form
from ailora.errors import UserError
from tests.adapters.models import parts, train

SAVED = Path(__file__).parent / "saved_by" / "v0_1_0"
ON_LLAMA = ["anchored", "baked", "folded", "options", "plain", "several", "several/second"]
LOADED = [*ON_LLAMA, "fused", "fused_folded"]
FOLDED = ("folded", "fused_folded")
INPUTS = {"input_ids": torch.arange(3, 21).reshape(2, 9)}
EXPECTED = load_file(SAVED / "expected.safetensors")


def base_of(name: str) -> nn.Module:
    kind = "gpt2" if name.startswith("fused") else "llama"
    folder = SAVED / "bases" / kind
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(**INPUTS).logits


@pytest.fixture(scope="module", autouse=True)
def _files_are_never_written() -> object:
    def found() -> dict[str, str]:
        paths = (path for path in SAVED.rglob("*") if path.is_file())
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}

    before = found()
    yield
    assert found() == before


def test_every_adapter_that_lies_there_has_its_tests() -> None:
    found = {str(p.parent.relative_to(SAVED)) for p in SAVED.rglob("ailora.json")}
    assert found == {*LOADED, "fused_baked"} == set(EXPECTED)
    for name in found:
        assert json.loads((SAVED / name / "ailora.json").read_text())["format"] == 1


@pytest.mark.parametrize("name", LOADED)
def test_it_computes_what_it_computed(name: str) -> None:
    model = ailora.load_adapter(base_of(name), SAVED / name)
    torch.testing.assert_close(logits(model), EXPECTED[name], rtol=0, atol=1e-6)
    assert read_form(SAVED / name) == ("folded" if name in FOLDED else "anchored")
    assert needs_model(SAVED / name)
    assert (EXPECTED[name] - logits(base_of(name))).abs().max() > 1e-4


@pytest.mark.parametrize("name", [*LOADED, "fused_baked"])
def test_stock_peft_loads_what_is_no_residual_as_ever(name: str) -> None:
    model = PeftModel.from_pretrained(base_of(name), str(SAVED / name))
    right = torch.allclose(logits(model), EXPECTED[name], rtol=0, atol=1e-6)
    assert right is (name not in FOLDED)


@pytest.mark.parametrize("name", LOADED)
def test_it_trains_on_and_is_saved_in_the_new_format(name: str, tmp_path: Path) -> None:
    model = ailora.load_adapter(base_of(name), SAVED / name, is_trainable=True)
    start = {
        key: None if part.A0 is None else (part.A0.clone(), part.B0.clone())
        for key, part in parts(model).items()
    }
    before = logits(model)
    losses = train(model, {**INPUTS, "labels": INPUTS["input_ids"]}, 5)
    assert losses[-1] < losses[0]
    after = logits(model)
    assert not torch.equal(after, before)
    for key, part in parts(model).items():
        if start[key] is not None:
            for now, then in zip((part.A0, part.B0), start[key], strict=True):
                torch.testing.assert_close(now, then, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    marker = json.loads((tmp_path / "ailora.json").read_text())
    assert marker["format"] == 2
    assert marker["form"] == ("folded" if name in FOLDED else "anchored") == read_form(tmp_path)
    assert not needs_model(tmp_path)
    assert (tmp_path / "ailora_anchor.safetensors").exists() is (name in FOLDED)
    again = ailora.load_adapter(base_of(name), tmp_path, is_trainable=True)
    # One scale in the files: "options" has scales that differ by no power of two.
    bits = 1e-6 if name == "options" else 0.0
    torch.testing.assert_close(logits(again), after, rtol=0, atol=bits)
    left, right = dict(model.named_parameters()), dict(again.named_parameters())
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=bits, atol=0)


@pytest.mark.parametrize("name", ["anchored", "baked", "options"])
def test_its_factors_have_the_anchors_that_lay_beside_them(name: str) -> None:
    anchors = load_file(SAVED / name / "ailora_anchor.safetensors")
    model = ailora.load_adapter(base_of(name), SAVED / name)
    compared = 0
    for key, part in parts(model).items():
        if part.A0 is not None:
            torch.testing.assert_close(part.A0, anchors[f"{key}.A"], rtol=0, atol=1e-6)
            compared += 1
    assert compared == len(anchors) > 0


def test_rates_and_options_come_back_under_their_new_names() -> None:
    model = ailora.load_adapter(base_of("options"), SAVED / "options", is_trainable=True)
    origin = model.peft_config["default"].record.origin
    assert (origin.lora_dropout, origin.use_rslora, origin.anchored) == (0.1, True, True)
    assert origin.layers_to_transform == [1] and origin.modules_to_save == ["lm_head"]
    assert (origin.roles["q"].r, origin.roles["q"].lora_alpha) == (3, 5.0)
    assert origin.roles["k"].modules == ("k_proj",)
    baked = ailora.load_adapter(base_of("baked"), SAVED / "baked", is_trainable=True)
    assert baked.peft_config["default"].record.origin.bake_rates
    for name, rates in (("anchored", [1.0, 2.0]), ("baked", [1.0]), ("folded", [1.0, 2.0])):
        one = ailora.load_adapter(base_of(name), SAVED / name, is_trainable=True)
        groups = ailora.create_optimizer(one, lr=1.0).param_groups
        assert [group["lr"] for group in groups] == rates, name


def test_several_are_loaded_into_one_model() -> None:
    model = ailora.load_adapter(base_of("several"), SAVED / "several")
    ailora.load_adapter(model, SAVED / "several/second", "second")
    for adapter, name in (("default", "several"), ("second", "several/second")):
        model.set_adapter(adapter)
        torch.testing.assert_close(logits(model), EXPECTED[name], rtol=0, atol=1e-6)


def test_what_one_layer_can_no_longer_have_is_refused_with_the_reason() -> None:
    """Baked rates in a fused layer: two scales, for which there were two adapters in one."""
    model = base_of("fused_baked")
    with pytest.raises(UserError, match=r"^[^\n]*fused_baked[^\n]*0\.1\.0[^\n]*one scale[^\n]*$"):
        ailora.load_adapter(model, SAVED / "fused_baked", is_trainable=True)
    assert "lora" not in str(model)


def test_on_another_model_it_is_refused_by_what_that_does_not_have() -> None:
    with pytest.raises(UserError, match=r"adapts model\.layers\.0\..*, which this GPT2"):
        ailora.load_adapter(base_of("fused"), SAVED / "anchored")


def test_a_folded_one_is_refused_on_its_own_residual(tmp_path: Path) -> None:
    model = ailora.load_adapter(base_of("folded"), SAVED / "folded")
    residual = base_of("folded")
    with torch.no_grad():
        for name, parameter in residual.named_parameters():
            names = dict(model.get_base_model().named_parameters())
            source = names.get(name, names.get(name.replace(".weight", ".base_layer.weight")))
            parameter.copy_(source)
    with pytest.raises(UserError, match="already taken out"):
        ailora.load_adapter(residual, SAVED / "folded")
