"""What ``ailora.adapters`` relies on in PEFT, one behaviour a test, on PEFT's own layers.

A PEFT release that breaks one of these breaks a promise: each says which file relies on it.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ailora.adapters import peft_insides
from ailora.adapters.record import StartedConfig
from tests.adapters.models import Q0, V0, batch, logits, tiny


class Seen(nn.Linear):
    """In a LoRA layer's place of an ``nn.Linear``: counts its calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def stock(**changes: object) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **changes})


def wrap(dtype: torch.dtype = torch.float64, **changes: object) -> PeftModel:
    return peft.get_peft_model(tiny(dtype), stock(**changes))


def layer_of(model: PeftModel, name: str = Q0) -> LoraLayer:
    return model.get_base_model().get_submodule(name)


def put_seen(model: PeftModel, adapter: str = "default") -> tuple[Seen, Seen]:
    layer = layer_of(model)
    for modules in (layer.lora_A, layer.lora_B):
        old = modules[adapter].weight
        modules[adapter] = Seen(old.shape[1], old.shape[0], bias=False, dtype=old.dtype)
    return layer.lora_A[adapter], layer.lora_B[adapter]


# --- Layers ----------------------------------------------------------------------------------


def test_modules_keep_their_names_under_get_base_model() -> None:
    """peft_insides.lora_layer."""
    assert isinstance(layer_of(wrap()), LoraLayer)


def test_the_update_is_made_of_weight_times_alpha_over_r() -> None:
    """factors: merging and unmerging."""
    model = wrap()
    A, B = put_seen(model)
    delta = layer_of(model).get_delta_weight("default")
    torch.testing.assert_close(delta, 8 / 4 * B.weight @ A.weight)


def test_forward_calls_the_modules_in_the_adapters_place() -> None:
    """factors: the tying lies in their forward."""
    model = wrap()
    before = logits(model, batch(model))
    A, B = put_seen(model)
    assert not torch.equal(logits(model, batch(model)), before)
    assert A.calls == B.calls == 1
    model(**batch(model)).loss.backward()
    assert A.weight.grad is not None and B.weight.grad is not None


def test_a_fresh_adapter_adds_zero() -> None:
    """attach: init_lora_weights=True until the factors are installed."""
    assert not layer_of(wrap()).lora_B["default"].weight.any()


def test_adapter_weights_are_fp32_over_16_bit_bases_unless_asked_otherwise() -> None:
    """Attach: takes its dtype from the stock factor."""
    for autocast, wanted in ((True, torch.float32), (False, torch.bfloat16)):
        model = peft.get_peft_model(tiny(torch.bfloat16), stock(), autocast_adapter_dtype=autocast)
        assert layer_of(model).lora_A["default"].weight.dtype == wanted


def test_trainability_follows_parameters_of_modules_in_the_adapters_place() -> None:
    """factors: set_adapter and set_requires_grad act on them, under names with lora_."""
    model = wrap()
    A, B = put_seen(model)
    names = [name for name, parameter in model.named_parameters() if parameter is A.weight]
    assert names == [f"base_model.model.{Q0}.lora_A.default.weight"]
    model.add_adapter("other", stock())
    model.set_adapter("other")
    assert not A.weight.requires_grad and not B.weight.requires_grad
    model.set_adapter("default")
    assert A.weight.requires_grad and B.weight.requires_grad
    model.set_requires_grad("default", requires_grad=False)
    assert not A.weight.requires_grad
    if "inference_mode" in inspect.signature(model.set_adapter).parameters:  # from 0.19 on
        model.set_adapter("default", inference_mode=True)
        assert not A.weight.requires_grad


def test_an_adapter_added_beside_is_inactive_and_frozen() -> None:
    """load: so load_adapter(is_trainable=True) must ask for gradients itself."""
    model = wrap()
    model.add_adapter("other", stock())
    assert model.active_adapter == "default"
    assert not layer_of(model).lora_A["other"].weight.requires_grad


def test_saving_and_loading_go_through_the_state_dict(tmp_path: Path) -> None:
    """factors: the parameter keeps its place, as a resumed Trainer's optimiser needs."""
    model = wrap()
    A, _ = put_seen(model)
    model.save_pretrained(tmp_path)
    saved = peft.utils.load_peft_weights(str(tmp_path), device="cpu")
    assert torch.equal(saved[f"base_model.model.{Q0}.lora_A.weight"], A.weight)
    again = wrap()
    A, _ = put_seen(again)
    parameter = A.weight
    again.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert A.weight is parameter
    assert torch.equal(saved[f"base_model.model.{Q0}.lora_A.weight"], A.weight)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_default_start_has_the_spread_our_gaussian_copies(rank: int) -> None:
    """starts._gaussian: U(-n^-1/2, n^-1/2), whose standard deviation is (3 n)^-1/2."""
    weights = torch.cat(
        [layer_of(wrap(r=rank)).lora_A["default"].weight.flatten() for _ in range(20)]
    )
    assert float(weights.abs().max()) <= 32**-0.5
    assert float(weights.std()) == pytest.approx((3 * 32) ** -0.5, rel=0.1)


# --- Which modules ---------------------------------------------------------------------------


def adapted(model: PeftModel) -> list[str]:
    return [n for n, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)]


def test_patterns_take_full_names_and_last_parts_for_rank_and_alpha() -> None:
    """peft_insides.pattern."""
    model = wrap(
        rank_pattern={Q0: 2, "value": 6}, alpha_pattern={"value": 3, V0.replace("0", "1"): 30}
    )
    q0, q1 = (layer_of(model, Q0.replace("0", layer)) for layer in "01")
    v0, v1 = (layer_of(model, V0.replace("0", layer)) for layer in "01")
    assert [layer.r["default"] for layer in (q0, q1, v0, v1)] == [2, 4, 6, 6]
    assert [layer.scaling["default"] for layer in (q0, q1, v0)] == [8 / 2, 8 / 4, 3 / 6]


def test_a_full_name_as_target_selects_one_module() -> None:
    """peft_insides.selecting."""
    assert adapted(wrap(target_modules=[Q0])) == [Q0]


def test_a_regular_expression_fits_whole_names() -> None:
    """peft_insides.selecting, where a full name is also the end of another module's."""
    assert adapted(wrap(target_modules=r"bert\.encoder\.layer\.0\.attention\.self\.query")) == [Q0]
    with pytest.raises(ValueError, match="not found"):
        wrap(target_modules=r"attention\.self\.query")


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["query", "value"], "exclude_modules": ["layer.0.attention.self.query"]},
        {"target_modules": ["query"], "layers_to_transform": [1]},
        {"target_modules": ["query"], "layers_to_transform": 1, "layers_pattern": "layer"},
        {"target_modules": ["query", "dense"], "modules_to_save": ["intermediate"]},
        {"target_modules": "all-linear", "exclude_modules": r".*classifier"},
        {"target_modules": ".*value"},
    ],
)
def test_what_we_foresee_to_be_adapted_is_what_peft_adapts(changes: dict[str, object]) -> None:
    """peft_insides.targets calls PEFT's own matching."""
    found = peft_insides.targets(stock(**changes), tiny())
    model = wrap(**changes)
    assert [name for name in found if "classifier" not in name] == [
        name for name in adapted(model) if "classifier" not in name
    ]
    assert found


# --- Where we step in ------------------------------------------------------------------------


def calls_of(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[tuple[object, ...]]:
    seen: list[tuple[object, ...]] = []
    original = getattr(owner, name)

    def method(self: object, *args: object, **kwargs: object) -> object:
        seen.append(args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, method)
    return seen


def test_every_way_in_goes_through_one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """wrap: LoraModel.inject_adapter."""
    seen = calls_of(monkeypatch, LoraModel, "inject_adapter")
    model = wrap()
    model.add_adapter("other", stock())
    peft.inject_adapter_in_model(stock(), tiny())
    assert [call[1] for call in seen] == ["default", "other", "default"]


def test_the_injection_reads_the_config_that_the_tuner_has_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wrap: puts a stock config of another rank in place of the caller's."""
    original = LoraModel.inject_adapter

    def inject(self, model, adapter_name, *args, **kwargs):
        self.peft_config[adapter_name] = stock(r=3)
        return original(self, model, adapter_name, *args, **kwargs)

    monkeypatch.setattr(LoraModel, "inject_adapter", inject)
    model = wrap()
    assert layer_of(model).r["default"] == 3
    assert model.peft_config["default"].r == 3


def test_the_cast_of_factors_comes_after_the_injection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrap: fills them once more in the dtype they got."""
    order = []
    for name in ("inject_adapter", "_cast_adapter_dtype"):
        original = getattr(LoraModel, name)

        def method(self, *args, _name=name, _original=original, **kwargs):
            result = _original(self, *args, **kwargs)
            order.append(_name)
            return result

        monkeypatch.setattr(LoraModel, name, method)
    wrap()
    assert order == ["inject_adapter", "_cast_adapter_dtype"]


def test_leaving_an_adapter_goes_through_the_methods_that_are_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """wrap: what a residual base must not be left without."""
    unloading = calls_of(monkeypatch, LoraModel, "_unload_and_optionally_merge")
    wrap().unload(), wrap().merge_and_unload()
    assert len(unloading) == 2
    deleting = calls_of(monkeypatch, LoraModel, "delete_adapter")
    wrap().delete_adapter("default")
    assert len(deleting) == 1
    disabling = calls_of(monkeypatch, LoraModel, "disable_adapter_layers")
    layers = calls_of(monkeypatch, BaseTunerLayer, "enable_adapters")
    with wrap().disable_adapter():
        assert len(disabling) == 1 and {call[0] for call in layers} == {False}


def test_a_weighted_adapter_has_a_config_made_by_replacing_fields() -> None:
    """wrap: so that a record does not go along."""
    model = wrap()
    model.peft_config["default"].beside = object()
    model.add_adapter("other", stock())
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum", combination_type="cat")
    made = model.peft_config["sum"]
    assert made.r == 8 and not hasattr(made, "beside")


# --- Configs and files -----------------------------------------------------------------------


def test_the_config_is_saved_after_the_weights_by_its_own_method(tmp_path: Path) -> None:
    """record.StartedConfig: the marker travels along at that moment."""
    seen: list[bool] = []

    class Watching(StartedConfig):
        def save_pretrained(self, save_directory: str, **kwargs: object) -> None:
            seen.append((Path(save_directory) / "adapter_model.safetensors").exists())
            super().save_pretrained(save_directory, **kwargs)

    model = wrap()
    model.peft_config["default"] = Watching.like(stock(), None)
    model.save_pretrained(tmp_path)
    assert seen == [True]


def test_the_biases_of_adapted_layers_are_saved_or_known_not_to_be(tmp_path: Path) -> None:
    """compatibility: PEFT before 0.21 trains and forgets them."""
    model = wrap(bias="lora_only")
    model.save_pretrained(tmp_path)
    saved = peft.utils.load_peft_weights(str(tmp_path), device="cpu")
    found = any(name.endswith("query.base_layer.bias") for name in saved)
    assert found is peft_insides.saves_lora_only_biases()


def test_a_config_that_is_given_stays_in_the_model_as_the_object_it_is() -> None:
    """wrap: the record is found on it."""
    config, other = stock(), stock()
    model = peft.get_peft_model(tiny(), config)
    model.add_adapter("other", other)
    assert model.peft_config["default"] is config
    assert model.peft_config["other"] is other


def test_from_pretrained_takes_a_config_object(tmp_path: Path) -> None:
    """load: the reloaded model remembers its start too."""
    wrap().save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(str(tmp_path))
    model = PeftModel.from_pretrained(tiny(), str(tmp_path), config=config)
    assert model.peft_config["default"] is config


def test_the_saved_config_holds_dataclass_fields_alone(tmp_path: Path) -> None:
    """record.StartedConfig: what it remembers stays out of the file."""
    config = StartedConfig.like(stock(), None)
    config.beside = object()  # type: ignore[attr-defined]
    assert set(config.to_dict()) == set(stock().to_dict())
    config.save_pretrained(str(tmp_path))
    assert set(json.loads((tmp_path / "adapter_config.json").read_text())) == set(stock().to_dict())
