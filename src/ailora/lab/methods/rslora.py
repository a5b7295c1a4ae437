"""rsLoRA (Kalajdzievski 2023): LoRA with the scale alpha / sqrt(rank)."""

from __future__ import annotations

from dataclasses import replace

from peft import PeftModel
from torch import nn

from ailora.adapters import get_peft_model, presets
from ailora.lab.methods.presets import configured
from ailora.lab.methods.settings import Batches, Settings


def rslora(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """PEFT's ``use_rslora`` on q and v; with alpha None the scale is sqrt(rank)."""
    config = configured(presets.lora, model, settings, use_rslora=True)
    if config.lora_alpha is None:
        config.roles = {
            name: replace(role, lora_alpha=role.r or config.r)
            for name, role in config.roles.items()
        }
    return get_peft_model(model, config)
