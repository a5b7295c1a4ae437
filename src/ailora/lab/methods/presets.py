"""The paper's five starts and PEFT's two variants of LoRA's update, as methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft import PeftModel
from torch import nn

from ailora.adapters import AILoRAConfig, Role, get_peft_model, presets
from ailora.adapters.selection import select
from ailora.adapters.starts import check_rank
from ailora.lab.methods.head import head_names
from ailora.lab.methods.settings import Batches, Settings
from ailora.roles import RoleKey

Preset = Callable[..., AILoRAConfig]


def lora(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """LoRA (Hu et al. 2021)."""
    return get_peft_model(model, configured(presets.lora, model, settings))


def pissa(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """PiSSA (Meng et al. 2024)."""
    return get_peft_model(model, configured(presets.pissa, model, settings))


def milora(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """MiLoRA (Wang et al. 2024)."""
    return get_peft_model(model, configured(presets.milora, model, settings))


def ailora(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """AILoRA (section 3 of the paper)."""
    return get_peft_model(model, configured(presets.ailora, model, settings))


def reailora(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """AILoRA reversed (section 5.4 of the paper)."""
    return get_peft_model(model, configured(presets.reailora, model, settings))


def configured(preset: Preset, model: nn.Module, settings: Settings, **fields: Any) -> AILoRAConfig:
    """A preset with these settings, which trains the model's head as well.

    Args:
        preset: Of `ailora.presets`.
        model: For its head.
        settings: The method's.
        fields: Further ones of `ailora.AILoRAConfig`.

    Raises:
        UserError: The model has no such projections, or a rank is above a weight's size.
    """
    fields = {**settings.started(), "modules_to_save": head_names(model) or None, **fields}
    if settings.ranks is not None:
        fields["roles"] = roles_of(preset, settings)
    config = preset(r=settings.rank, **fields)
    for one in select(model, config).chosen:  # LoRA too, which alone would take it: all compare
        check_rank(one.projection, one.rank)
    return config


def roles_of(preset: Preset, settings: Settings) -> dict[RoleKey, Role]:
    """The settings' roles at their ranks; those the preset says nothing of start as LoRA does."""
    own = preset().roles
    found: dict[RoleKey, Role] = {}
    for name, rank in (settings.ranks or {}).items():
        role = own.get(name, Role(init="gaussian"))
        found[name] = Role(init=role.init, lr_ratio=role.lr_ratio, r=rank)
    return found
