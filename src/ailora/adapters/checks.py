"""What must hold before a model is changed: room for the adapter, and files that belong to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.reading import SavedStart, StockFactors
from ailora.adapters.starts import projections_of
from ailora.errors import UserError
from ailora.roles import unwrapped


def check_room(model: nn.Module, config: AILoRAConfig, adapter_name: str) -> None:
    """Raise a UserError if the model cannot take one more adapter of that name and form."""
    if not adapter_name or "." in adapter_name:
        raise UserError(f"adapter_name={adapter_name!r}: must be a name without dots")
    if not isinstance(model, PeftModel):
        return
    if adapter_name in model.peft_config:
        raise UserError(
            f"adapter_name={adapter_name!r}: this model has that adapter; choose another name"
        )
    if any(isinstance(layer, LoraLayer) and layer.merged for layer in model.modules()):
        raise UserError("an adapter is merged into this model's weights; unmerge_adapter() first")
    if config.base == "folded":
        raise UserError(
            "base='folded' would change the base weights under the adapters this model has; "
            "use base='anchored'"
        )
    for name, other in model.peft_config.items():
        start = getattr(other, "start_config", None)
        if start is not None and start.base == "folded" and other.anchors:
            raise UserError(
                f"adapter {name!r} is folded into this model's weights, so nothing else fits on "
                f"them; start {adapter_name!r} on a model of its own, or use base='anchored' in "
                "both"
            )


def check_apart(config: AILoRAConfig, names: Collection[str]) -> None:
    """Raise a UserError if a module to adapt lies in one that is trained in full."""
    for whole in config.modules_to_save or ():
        inside = [name for name in names if f".{whole}." in f".{name}."]
        if inside:
            raise UserError(
                f"modules_to_save has {whole!r}, which {inside[0]} is a part of; "
                "a module is either trained in full or adapted"
            )


def check_fits(
    model: nn.Module, path: Path, saved: SavedStart, factors: Mapping[str, StockFactors]
) -> None:
    """Raise a UserError unless the files of a folder belong to the model and to each other."""
    for name, (A, B) in factors.items():
        shape, needed = _weight_shape(model, name, path), (B.shape[0], A.shape[1])
        if shape != needed:
            raise UserError(
                f"{path}: adapts a weight of shape {needed} at {name}, where this model has "
                f"{shape}; load it into the model it was made for"
            )
    spectral = {
        projection.name
        for projection in projections_of(model, saved.config)
        if saved.config.roles[projection.role].init != "gaussian"
    }
    odd = sorted(spectral.symmetric_difference(saved.anchors) | (spectral - set(factors)))
    if odd:
        raise UserError(
            f"{path}: the adapter and its anchors are not of the same modules, see {odd[0]}; "
            "copy the whole adapter folder again"
        )
    for name in spectral:
        _check_anchor(name, path, saved.config, saved.anchors[name], factors[name])


def _weight_shape(model: nn.Module, name: str, path: Path) -> tuple[int, ...]:
    base = unwrapped(model)
    try:
        module = base.get_submodule(name)
        weight = cast(nn.Linear, getattr(module, "base_layer", module)).weight
        return tuple(weight.shape)
    except AttributeError as error:
        raise UserError(
            f"{path}: adapts {name}, which this {type(base).__name__} does not have; "
            "load it into the model it was made for"
        ) from error


def _check_anchor(
    name: str, path: Path, config: AILoRAConfig, anchor: Mapping[str, Tensor], factors: StockFactors
) -> None:
    """Anchored: A0 + D_A is the upper half of A', up to a cast of the file to 16 bits."""
    A, B = factors
    if config.base == "folded":
        belongs = set(anchor) == {"A", "B"} and (anchor["A"].shape, anchor["B"].shape) == (
            A.shape,
            B.shape,
        )
    else:
        belongs = set(anchor) == {"A"} and _upper_half_is(A.double(), anchor["A"].double())
    if not belongs:
        raise UserError(
            f"{path}: the anchor of {name} does not belong to this adapter; copy "
            "adapter_model.safetensors and ailora_anchor.safetensors from one folder"
        )


def _upper_half_is(A: Tensor, A0: Tensor) -> bool:
    if (2 * A0.shape[0], *A0.shape[1:]) != tuple(A.shape):
        return False
    upper, lower = A.chunk(2)
    return bool(torch.linalg.norm(A0 + lower - upper) <= 2**-8 * torch.linalg.norm(upper))
