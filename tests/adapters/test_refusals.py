"""What anchored factors cannot be used with says so in one line, and nothing has changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import peft
import pytest
import torch
from peft import LoraConfig, PeftMixedModel, PeftModel
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from torch.distributed.fsdp import FullyShardedDataParallel

import ailora
from ailora import presets
from ailora.errors import UserError
from tests.adapters.models import Q0, batch, factors, logits, tiny, train, trained

LAUNCHED: dict[str, dict[str, str]] = {
    "FSDP version 1": {"ACCELERATE_USE_FSDP": "true"},
    "DeepSpeed ZeRO-3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    },
}
FINE = [
    {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
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
    ailora.get_peft_model(tiny(), presets.ailora(3, base="folded"))


@pytest.mark.parametrize("variables", FINE)
def test_other_launches_are_not_refused(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, variables)
    ailora.get_peft_model(tiny(), presets.ailora(3))


def test_zero_3_as_transformers_announces_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import deepspeed

    class Announced:
        def is_zero3(self) -> bool:
            return True

    announced = Announced()
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: announced)
    with pytest.raises(UserError, match=r"^DeepSpeed ZeRO-3"):
        ailora.get_peft_model(tiny(), presets.ailora(3))


@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fsdp_1_around_a_model_is_refused_at_its_first_step(use_orig_params: bool) -> None:
    model = ailora.get_peft_model(tiny(torch.float32), presets.ailora(3))
    inputs = batch(model)
    A, _ = factors(model, Q0)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = FullyShardedDataParallel(
            A, use_orig_params=use_orig_params, device_id=torch.device("cpu")
        )
        model.get_base_model().get_submodule(Q0).lora_A["default"] = wrapped
        with pytest.raises(UserError, match=r"^FSDP version 1 cannot save these factors"):
            model(**inputs)
    finally:
        torch.distributed.destroy_process_group()


def test_zero_3_around_a_model_is_refused_at_its_first_step() -> None:
    model = ailora.get_peft_model(tiny(), presets.ailora(3))
    A, _ = factors(model, Q0)
    A.delta.ds_id = 7  # the name deepspeed.zero gives every parameter that it takes apart
    with pytest.raises(UserError, match=r"^DeepSpeed ZeRO-3"):
        model(**batch(model))


def test_unsloth_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", ModuleType("unsloth"))
    with pytest.raises(UserError, match=r"^Unsloth is imported: [^\n]*`ailora init`[^\n]*$"):
        ailora.get_peft_model(tiny(), presets.ailora(3))
    ailora.get_peft_model(tiny(), presets.ailora(3, base="folded"))


def test_hot_swapping_anchored_factors_is_refused_and_leaves_them(folder: Path) -> None:
    model = ailora.load_adapter(tiny(), folder)
    before = logits(model, batch(model))
    swaps: list[Callable[[], object]] = [
        lambda: hotswap_adapter(model, str(folder), "default", torch_device="cpu"),
        lambda: prepare_model_for_compiled_hotswap(model, target_rank=8),
    ]
    for swap in swaps:
        with pytest.raises(UserError, match=r"^hot-swap cannot write into anchored factors; "):
            swap()
    assert torch.equal(logits(model, batch(model)), before)


def test_adapters_of_one_rank_that_stock_peft_loaded_are_hot_swapped(tmp_path: Path) -> None:
    """One rank and scale: PEFT 0.21.2 looks up patterns by a key that none of them matches."""
    for name, steps in (("one", 1), ("two", 4)):
        model = trained(roles=presets.ailora().roles)
        train(model, batch(model), steps)
        model.save_pretrained(tmp_path / name)
    after = logits(model, batch(model))
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path / "one"))
    assert not torch.allclose(logits(stock, batch(stock)), after)
    hotswap_adapter(stock, str(tmp_path / "two"), "default", torch_device="cpu")
    torch.testing.assert_close(logits(stock, batch(stock)), after, rtol=0, atol=1e-12)


def test_a_mixed_model_is_refused_for_training_and_loads_the_saved_files(folder: Path) -> None:
    mixed = peft.get_peft_model(tiny(), LoraConfig(target_modules=["query"]), mixed=True)
    for call in (
        lambda: ailora.get_peft_model(mixed, presets.ailora(3), "second"),
        lambda: ailora.load_adapter(mixed, folder, "second"),
    ):
        with pytest.raises(UserError, match=r"^the model is a PeftMixedModel"):
            call()
    ours = ailora.load_adapter(tiny(), folder)
    again = PeftMixedModel.from_pretrained(tiny(), str(folder))
    wanted = logits(ours, batch(ours))
    torch.testing.assert_close(logits(again, batch(again)), wanted, rtol=0, atol=1e-12)


def elsewhere(config: object) -> list[Callable[[], object]]:
    """Every way into PEFT but the one that passes a deferred start on."""
    beside = ailora.get_peft_model(tiny(), presets.pissa(2), "first")
    return [
        lambda: peft.get_peft_model(tiny(), config, mixed=True),
        lambda: PeftModel(tiny(), config),
        lambda: beside.add_adapter("second", config),
        lambda: peft.inject_adapter_in_model(config, tiny()),
    ]


def test_a_deferred_start_is_never_taken_for_a_plain_lora() -> None:
    for call in elsewhere(ailora.peft_config(presets.ailora(3))):
        with pytest.raises(ValueError, match=r"this config is for peft.get_peft_model"):
            call()


def test_a_bare_config_names_the_right_call_wherever_peft_gets_it() -> None:
    *calls, _ = elsewhere(presets.ailora(3))  # injection without a PeftModel names no call
    for call in (*calls, lambda: peft.get_peft_model(tiny(), presets.lora())):
        with pytest.raises(UserError, match=r"^PEFT was given an AILoRAConfig: call ailora"):
            call()
