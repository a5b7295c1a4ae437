"""What ``ailora.adapters`` relies on in PEFT, one behaviour a test, on PEFT's own layers.

A PEFT release that breaks one of these breaks a promise: each says which file relies on it.
"""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ailora.adapters.files.saved import StartedLoraConfig
from tests.adapters.models import Q0, V0, batch, logits, tiny


class Stand(nn.Module):
    """In a LoRA layer's place of an ``nn.Linear``: shows a matrix, trains another parameter."""

    bias = None

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("shown", weight.detach().clone(), persistent=False)
        self.delta = nn.Parameter(torch.zeros_like(weight))
        self.loads = 0

    @property
    def weight(self) -> Tensor:
        return self.shown + self.delta

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        destination[prefix + "weight"] = self.weight.detach()

    def _load_from_state_dict(self, state_dict, prefix, *_) -> None:
        self.loads += prefix + "weight" in state_dict


def stock(**changes: object) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **changes})


def wrap(dtype: torch.dtype = torch.float64, **changes: object) -> PeftModel:
    return peft.get_peft_model(tiny(dtype), stock(**changes))


def layer_of(model: PeftModel, name: str = Q0) -> LoraLayer:
    return model.get_base_model().get_submodule(name)


def put_stands(model: PeftModel, adapter: str = "default") -> tuple[Stand, Stand]:
    layer = layer_of(model)
    for modules in (layer.lora_A, layer.lora_B):
        modules[adapter] = Stand(torch.randn_like(modules[adapter].weight))
    return layer.lora_A[adapter], layer.lora_B[adapter]


def test_modules_keep_their_names_under_get_base_model() -> None:
    """peft_layers.lora_layer."""
    assert isinstance(layer_of(wrap()), LoraLayer)


def test_the_update_is_made_of_what_weight_shows_times_alpha_over_r() -> None:
    """factors: merging and unmerging."""
    model = wrap()
    A, B = put_stands(model)
    delta = layer_of(model).get_delta_weight("default")
    torch.testing.assert_close(delta, 8 / 4 * B.shown @ A.shown)


def test_forward_calls_the_modules_in_the_adapters_place() -> None:
    """factors: training."""
    model = wrap()
    before = logits(model, batch(model))
    A, B = put_stands(model)
    assert not torch.equal(logits(model, batch(model)), before)
    loss = model(**batch(model)).loss
    loss.backward()
    assert A.delta.grad is not None and B.delta.grad is not None


def test_patterns_take_full_names_and_last_parts_for_rank_and_alpha() -> None:
    """peft_layers.lora_config."""
    model = wrap(
        rank_pattern={Q0: 2, "value": 6}, alpha_pattern={"value": 3, V0.replace("0", "1"): 30}
    )
    q0, q1 = (layer_of(model, Q0.replace("0", layer)) for layer in "01")
    v0, v1 = (layer_of(model, V0.replace("0", layer)) for layer in "01")
    assert [layer.r["default"] for layer in (q0, q1, v0, v1)] == [2, 4, 6, 6]
    assert [layer.scaling["default"] for layer in (q0, q1, v0)] == [8 / 2, 8 / 4, 3 / 6]


def test_a_full_name_as_target_selects_one_module() -> None:
    """peft_layers.lora_config."""
    model = wrap(target_modules=[Q0])
    assert [
        name
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    ] == [Q0]


def test_a_fresh_adapter_adds_zero() -> None:
    """peft_layers.lora_config: init_lora_weights=True until the starts are installed."""
    assert not layer_of(wrap()).lora_B["default"].weight.any()


def test_adapter_weights_are_fp32_over_16_bit_bases_unless_asked_otherwise() -> None:
    """peft_layers.install takes its dtype from the stock factor."""
    for autocast, wanted in ((True, torch.float32), (False, torch.bfloat16)):
        model = peft.get_peft_model(tiny(torch.bfloat16), stock(), autocast_adapter_dtype=autocast)
        assert layer_of(model).lora_A["default"].weight.dtype == wanted


def test_trainability_follows_parameters_of_modules_in_the_adapters_place() -> None:
    """factors: set_adapter and set_requires_grad act on ``delta``, under names with lora_."""
    model = wrap()
    A, B = put_stands(model)
    names = [name for name, parameter in model.named_parameters() if parameter is A.delta]
    assert names == [f"base_model.model.{Q0}.lora_A.default.delta"]
    model.add_adapter("other", stock())
    model.set_adapter("other")
    assert not A.delta.requires_grad and not B.delta.requires_grad
    model.set_adapter("default")
    assert A.delta.requires_grad and B.delta.requires_grad
    model.set_requires_grad("default", requires_grad=False)
    assert not A.delta.requires_grad
    model.set_adapter("default", inference_mode=True)
    assert not A.delta.requires_grad


def test_an_adapter_added_beside_is_inactive_and_frozen() -> None:
    """load: so load_adapter(is_trainable=True) must ask for gradients itself."""
    model = wrap()
    model.add_adapter("other", stock())
    assert model.active_adapter == "default"
    assert not layer_of(model).lora_A["other"].weight.requires_grad


def test_saving_takes_matrices_from_the_state_dict(tmp_path: Path) -> None:
    """factors: the file holds what ``weight`` shows, under the stock name."""
    model = wrap()
    A, _ = put_stands(model)
    model.save_pretrained(tmp_path)
    saved = peft.utils.load_peft_weights(str(tmp_path), device="cpu")
    assert torch.equal(saved[f"base_model.model.{Q0}.lora_A.weight"], A.shown)
    assert not any("delta" in name or "shown" in name for name in saved)


def test_loading_goes_through_the_modules_own_loader(tmp_path: Path) -> None:
    """factors.restore: PeftModel.load_adapter is what a resumed Trainer calls."""
    wrap().save_pretrained(tmp_path)
    model = wrap()
    A, B = put_stands(model)
    model.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert (A.loads, B.loads) == (1, 1)


def test_the_config_is_saved_after_the_weights_by_its_own_method(tmp_path: Path) -> None:
    """saved.StartedLoraConfig: the anchors travel along at that moment."""
    seen: list[bool] = []

    class Watching(StartedLoraConfig):
        def save_pretrained(self, save_directory: str, **kwargs: object) -> None:
            seen.append((Path(save_directory) / "adapter_model.safetensors").exists())
            super().save_pretrained(save_directory, **kwargs)

    model = peft.get_peft_model(tiny(), Watching.from_stock(stock()))
    model.save_pretrained(tmp_path)
    assert seen == [True]


def test_a_subclass_of_the_config_stays_in_the_model_as_the_object_it_is() -> None:
    """saved.remember writes onto it."""
    config = StartedLoraConfig.from_stock(stock())
    assert peft.get_peft_model(tiny(), config).peft_config["default"] is config
    other = StartedLoraConfig.from_stock(stock())
    model = wrap()
    model.add_adapter("other", other)
    assert model.peft_config["other"] is other


def test_from_pretrained_takes_a_config_object(tmp_path: Path) -> None:
    """load: the reloaded model remembers its start too."""
    wrap().save_pretrained(tmp_path)
    config = StartedLoraConfig.from_stock(PeftConfig.from_pretrained(str(tmp_path)))
    model = PeftModel.from_pretrained(tiny(), str(tmp_path), config=config)
    assert model.peft_config["default"] is config


def test_the_saved_config_holds_dataclass_fields_alone(tmp_path: Path) -> None:
    """saved.StartedLoraConfig: attributes beside the fields stay out of the file."""
    config = StartedLoraConfig.from_stock(stock())
    config.start_config = object()  # type: ignore[assignment]
    assert set(config.to_dict()) == set(stock().to_dict())
    config.start_config = None
    config.save_pretrained(str(tmp_path))
    assert set(json.loads((tmp_path / "adapter_config.json").read_text())) == set(stock().to_dict())


@pytest.mark.parametrize("rank", [1, 3])
def test_the_default_start_has_the_spread_our_gaussian_copies(rank: int) -> None:
    """starts._gaussian: U(-n^-1/2, n^-1/2), whose standard deviation is (3 n)^-1/2."""
    weights = torch.cat(
        [layer_of(wrap(r=rank)).lora_A["default"].weight.flatten() for _ in range(20)]
    )
    assert float(weights.abs().max()) <= 32**-0.5
    assert float(weights.std()) == pytest.approx((3 * 32) ** -0.5, rel=0.1)
