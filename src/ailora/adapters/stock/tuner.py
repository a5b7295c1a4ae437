"""PEFT's LoRA tuner, which also gives a start to adapters that others add from a started config.

TRL's DPOTrainer calls ``model.add_adapter("ref", model.peft_config["default"])`` and copies the
parameters by name (``.default.`` to ``.ref.``). Stock layers have other parameters than anchored
ones, so that reference would silently be another model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraModel
from torch import nn

from ailora.adapters.factors.anchored import AnchoredFactor, Factor
from ailora.adapters.files.card import guard_card
from ailora.adapters.files.saved import StartedLoraConfig
from ailora.adapters.stock import peft_layers
from ailora.adapters.stock.hotswap import guard_hotswap


class StartedLoraModel(LoraModel):  # type: ignore[misc]
    """PEFT's own ``LoraModel`` with one addition, see above."""

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """As in PEFT; then, if the config belongs to a started adapter, the same start again."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        source = _owner(self.peft_config, config, adapter_name)
        if source is not None:
            self.peft_config[adapter_name] = _started_again(model, source, adapter_name, config)


def use_started_tuner(model: PeftModel) -> None:
    """Let the model's tuner know of starts, and PEFT's functions that would ignore them."""
    guard_hotswap()
    guard_card()
    if type(model.base_model) is LoraModel:
        model.base_model.__class__ = StartedLoraModel


def _owner(configs: dict[str, Any], config: Any, adapter: str) -> str | None:
    """The started adapter that this very config object is of."""
    if getattr(config, "start_config", None) is None:
        return None
    return next(
        (name for name, other in configs.items() if other is config and name != adapter), None
    )


def _started_again(
    model: nn.Module, source: str, adapter: str, config: StartedLoraConfig
) -> StartedLoraConfig:
    for layer in peft_layers.lora_layers(model, source).values():
        for modules in (layer.lora_A, layer.lora_B):
            _copy_start(modules, source, adapter)
    _fill_folded(model, adapter, config)
    again = copy.copy(config)
    if config.start_config is not None and config.start_config.base == "anchored":
        again.anchors = peft_layers.anchors(model, adapter)
    return again


@torch.no_grad()
def _copy_start(modules: Any, source: str, adapter: str) -> None:
    original, stock = modules[source], modules[adapter]
    if not isinstance(original, Factor):
        stock.lr_ratio = getattr(original, "lr_ratio", 1.0)
        return
    modules[adapter] = copy.deepcopy(original).requires_grad_(stock.weight.requires_grad)
    for part in modules[adapter].modules():
        if isinstance(part, AnchoredFactor):
            part.delta.zero_()


@torch.no_grad()
def _fill_folded(model: nn.Module, adapter: str, config: StartedLoraConfig) -> None:
    """Folded factors start at A0 and B0, without which the residual base is another model."""
    anchors = config.anchors or {}
    for key, factors in peft_layers.role_factors(model, adapter).items():
        for module, letter in ((factors.A, "A"), (factors.B, "B")):
            start = anchors.get(f"{key}.{letter}")
            if isinstance(start, torch.Tensor):
                next(module.parameters()).copy_(start)
