"""What anchored factors cannot be used with says so in one line, and nothing has changed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import peft
import pytest
import torch
from peft import LoraConfig, PeftMixedModel, PeftModel
from peft.utils.hotswap import hotswap_adapter

import ailora
from ailora import presets
from ailora.errors import UserError
from tests.adapters.models import Q0, batch, factors, logits, tiny, train, trained

LAUNCHED: dict[str, dict[str, str]] = {
    "FSDP version 1": {"ACCELERATE_USE_FSDP": "true"},
}
FINE = [
    {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    {"ACCELERATE_USE_FSDP": "false"},
]


def launched(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", LAUNCHED)
def test_sharding_that_would_save_wrongly_is_refused_before_it_trains(
    name: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    launched(monkeypatch, LAUNCHED[name])
    for start in (
        lambda: ailora.get_peft_model(tiny(), presets.ailora(3)),
        lambda: ailora.load_adapter(tiny(), folder, is_trainable=True),
    ):
        with pytest.raises(UserError, match=f"^{name} [^\n]*ailora init[^\n]*$"):
            start()
    ailora.load_adapter(tiny(), folder)
    ailora.get_peft_model(tiny(), presets.lora(3))
    ailora.get_peft_model(tiny(), presets.ailora(3, anchored=False))


@pytest.mark.parametrize("variables", FINE)
def test_other_launches_are_not_refused(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, variables)
    ailora.get_peft_model(tiny(), presets.ailora(3))


def test_weight_decay_on_the_flat_parameters_of_fsdp_1_is_refused_at_its_first_step() -> None:
    """Which it leaves in the layers between passes: the halves cannot be told apart in them."""
    model = ailora.get_peft_model(tiny(torch.float32), presets.ailora(3))
    A, _ = factors(model, Q0)
    A._parameters["weight"] = torch.nn.Parameter(A.weight.detach().flatten())
    A.weight.grad = torch.zeros_like(A.weight)
    with pytest.raises(UserError, match=r"\(FSDP version 1\), .* weight_decay=0, or .* version 2"):
        torch.optim.AdamW([A.weight], weight_decay=0.1).step()
    torch.optim.AdamW([A.weight], weight_decay=0.0).step()


def test_an_adapter_of_which_each_process_holds_a_piece_is_not_saved_empty(tmp_path: Path) -> None:
    """As DeepSpeed ZeRO-3 leaves a parameter: empty, with its shape beside."""
    model = ailora.get_peft_model(tiny(torch.float32), presets.ailora(3))
    A, _ = factors(model, Q0)
    A.weight.ds_shape, A.weight.data = A.weight.shape, torch.empty(0)
    with pytest.raises(UserError, match=r"^DeepSpeed ZeRO-3 holds the adapter in pieces"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unsloth_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", ModuleType("unsloth"))
    with pytest.raises(UserError, match=r"^Unsloth is imported: [^\n]*`ailora init`[^\n]*$"):
        ailora.get_peft_model(tiny(), presets.ailora(3))
    ailora.get_peft_model(tiny(), presets.ailora(3, anchored=False))


def test_layers_of_the_callers_own_are_refused_instead_of_left_out() -> None:
    class MyLinear(peft.tuners.lora.Linear):
        pass

    model, config = tiny(), presets.ailora(3)
    config._register_custom_module({torch.nn.Linear: MyLinear})
    with pytest.raises(UserError, match=r"^layers of your own \(MyLinear, [^\n]*LoraConfig$"):
        peft.get_peft_model(model, config)
    assert not any(isinstance(m, peft.tuners.lora.LoraLayer) for m in model.modules())


def two_adapters(folder: Path) -> tuple[Path, Path, torch.Tensor]:
    """Two of one rank and scale, differently far trained; and the second's logits."""
    for name, steps in (("one", 1), ("two", 4)):
        model = trained(roles=presets.ailora().roles)
        train(model, batch(model), steps)
        model.save_pretrained(folder / name)
    return folder / "one", folder / "two", logits(model, batch(model))


def test_anchored_adapters_of_one_rank_are_hot_swapped(tmp_path: Path) -> None:
    """PEFT 0.21.2 looks up patterns by a key that none of them matches: one rank and scale."""
    one, two, after = two_adapters(tmp_path)
    model = ailora.load_adapter(tiny(), one)
    assert not torch.allclose(logits(model, batch(model)), after)
    hotswap_adapter(model, str(two), "default", torch_device="cpu")
    torch.testing.assert_close(logits(model, batch(model)), after, rtol=0, atol=1e-12)


def test_a_hot_swapped_adapter_is_not_saved_as_the_one_it_took_the_place_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of another start the marker is not true; of the same start it is."""
    one, two, _ = two_adapters(tmp_path)
    other = trained(roles=presets.reailora().roles)
    other.save_pretrained(tmp_path / "other")
    for swapped, is_ours in ((two, True), (tmp_path / "other", False)):
        model = ailora.load_adapter(tiny(), one)
        hotswap_adapter(model, str(swapped), "default", torch_device="cpu")
        model.save_pretrained(tmp_path / "out")
        assert (tmp_path / "out/ailora.json").exists() is is_ours
        stock = PeftModel.from_pretrained(tiny(), str(tmp_path / "out"))
        assert torch.equal(logits(stock, batch(stock)), logits(model, batch(model)))
    assert "saved as a plain LoRA, without ailora.json" in caplog.text


def test_adapters_of_one_rank_that_stock_peft_loaded_are_hot_swapped(tmp_path: Path) -> None:
    one, two, after = two_adapters(tmp_path)
    stock = PeftModel.from_pretrained(tiny(), str(one))
    assert not torch.allclose(logits(stock, batch(stock)), after)
    hotswap_adapter(stock, str(two), "default", torch_device="cpu")
    torch.testing.assert_close(logits(stock, batch(stock)), after, rtol=0, atol=1e-12)


def test_a_mixed_model_is_refused_for_training_and_loads_the_saved_files(folder: Path) -> None:
    mixed = peft.get_peft_model(tiny(), LoraConfig(target_modules=["query"]), mixed=True)
    for call in (
        lambda: ailora.get_peft_model(mixed, presets.ailora(3), "second"),
        lambda: ailora.load_adapter(mixed, folder, "second"),
    ):
        with pytest.raises(UserError, match="PeftMixedModel"):
            call()
    with pytest.raises(UserError, match="PeftMixedModel"):
        mixed.add_adapter("second", presets.ailora(3))
    with pytest.raises(UserError, match="PeftMixedModel"):
        peft.get_peft_model(tiny(), presets.ailora(3), mixed=True)
    ours = ailora.load_adapter(tiny(), folder)
    again = PeftMixedModel.from_pretrained(tiny(), str(folder))
    wanted = logits(ours, batch(ours))
    torch.testing.assert_close(logits(again, batch(again)), wanted, rtol=0, atol=1e-12)
