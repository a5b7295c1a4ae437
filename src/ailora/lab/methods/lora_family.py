"""The methods that are one config of the library: LoRA, the paper's starts, rsLoRA and DoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from peft import PeftModel
from torch import nn

from ailora.adapters import AILoRAConfig, Role, get_peft_model, presets
from ailora.adapters.selection import select
from ailora.adapters.starts import STARTS, check_rank_fits
from ailora.checkpoints.structure import task_type_of
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import head_names
from ailora.lab.settings import RunConfig
from ailora.roles import RoleKey, unwrapped

Preset = Callable[..., AILoRAConfig]


def lora(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """LoRA (Hu et al. 2021)."""
    return get_peft_model(model, configured(presets.lora, model, settings))


def pissa(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PiSSA (Meng et al. 2024)."""
    return get_peft_model(model, configured(presets.pissa, model, settings))


def milora(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """MiLoRA (Wang et al. 2024)."""
    return get_peft_model(model, configured(presets.milora, model, settings))


def ailora(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """AILoRA (section 3 of the paper)."""
    return get_peft_model(model, configured(presets.ailora, model, settings))


def reailora(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """AILoRA reversed (section 5.4 of the paper)."""
    return get_peft_model(model, configured(presets.reailora, model, settings))


def rslora(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's ``use_rslora`` (Kalajdzievski 2023): with no alpha the scale is sqrt(rank)."""
    config = configured(presets.lora, model, settings, use_rslora=True)
    if config.lora_alpha is None:
        config.roles = {
            name: replace(role, lora_alpha=role.r or config.r)
            for name, role in config.roles.items()
        }
    return get_peft_model(model, config)


def dora(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's ``use_dora`` (Liu et al. 2024).

    Raises:
        UserError: The model's q and v are parts of a fused layer, whose norms belong to others.
    """
    return get_peft_model(model, configured(presets.lora, model, settings, use_dora=True))


def configured(
    preset: Preset, model: nn.Module, settings: RunConfig, **fields: Any
) -> AILoRAConfig:
    """A preset with these settings, which trains the model's head as well.

    Args:
        preset: One of `ailora.presets`.
        model: The model, whose head and task are looked up.
        settings: Settings of the run.
        fields: Further fields of `ailora.AILoRAConfig`.

    Raises:
        UserError: The model has no such projections, or a rank is above a weight's size.
    """
    fields = {
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "anchored": settings.anchored,
        "bake_rates": settings.bake_rates,
        "tol": settings.tol,
        "task_type": task_type_of(unwrapped(model)),
        "modules_to_save": head_names(model) or None,
        **fields,
    }
    fields["roles"] = _roles(fields.get("roles") or preset().roles, settings)
    config = preset(r=settings.rank, **fields)
    for one in select(model, config).chosen:  # LoRA too, to treat all alike
        check_rank_fits(one.projection, one.rank)
    return config


_RANDOM = {"principal": "orthonormal", "minor": "orthonormal_minor"}


def _roles(own: Mapping[RoleKey, Role], settings: RunConfig) -> dict[RoleKey, Role]:
    """The method's roles as the settings have them.

    With ranks these are the settings' roles; those that the method says nothing of start as LoRA
    does.
    """
    if settings.ranks is not None:
        gaussian = Role(init="gaussian")
        ranks = settings.ranks.items()
        own = {name: replace(own.get(name, gaussian), r=rank) for name, rank in ranks}
    return {name: _as_set(name, role, settings) for name, role in own.items()}


def _as_set(name: RoleKey, role: Role, settings: RunConfig) -> Role:
    random, ratio = settings.directions == "random", settings.lr_ratio
    init = _RANDOM.get(role.init, role.init) if random else role.init
    # A gaussian start has no size to set: beside ranks, some roles of any method have it.
    scale = "sigma" if STARTS[init].zero else settings.scale
    rate = ratio if name == "v" and ratio is not None else role.lr_ratio
    return replace(role, init=init, scale=scale, lr_ratio=rate)
