"""What must hold before a model is changed: room for the adapter, and files that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftMixedModel, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.files.parts import SavedRole, saved_roles, saved_starts
from ailora.adapters.files.reading import SavedStart, StockFactors
from ailora.adapters.starts.make import Start, projections_of, stored_scaling
from ailora.errors import UserError
from ailora.roles import unwrapped
from ailora.roles.weights import is_quantised, shape_of


def check_room(model: nn.Module, config: AILoRAConfig, adapter_name: str) -> None:
    """Raise a UserError if the model cannot take one more adapter of that name and form."""
    if not adapter_name or "." in adapter_name:
        raise UserError(f"adapter_name={adapter_name!r}: must be a name without dots")
    if isinstance(model, PeftMixedModel):
        raise UserError(
            "the model is a PeftMixedModel, which mixes kinds of adapters; start from the plain "
            "model, or from a PeftModel with adapters beside"
        )
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


def check_starts(model: nn.Module, config: AILoRAConfig, starts: Sequence[Start]) -> None:
    """Raise a UserError if these layers cannot be adapted in this way."""
    for whole in config.modules_to_save or ():
        inside = [start.name for start in starts if f".{whole}." in f".{start.name}."]
        if inside:
            raise UserError(
                f"modules_to_save has {whole!r}, which {inside[0]} is a part of; "
                "a module is either trained in full or adapted"
            )
    for start in starts:
        if config.use_dora and start.projection.rows is not None:
            raise UserError(
                f"use_dora=True: {start.name} is a fused layer, where DoRA's norms would train "
                "other roles' rows as well; leave DoRA out for this model"
            )
    if config.base == "folded":
        _check_foldable(model, starts)


def _check_foldable(model: nn.Module, starts: Sequence[Start]) -> None:
    owners: dict[int, set[str]] = {}
    for name, module in unwrapped(model).named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    for start in (start for start in starts if start.spectral):
        module = start.projection.module
        if is_quantised(module):
            raise UserError(
                f"base='folded' would change the quantised weight of {start.name}; "
                "use base='anchored', which leaves it as it is"
            )
        others = owners.get(id(module.weight), set()) - {start.name}
        if others:
            raise UserError(
                f"base='folded' would change {start.name}, whose weight {min(others)} shares; "
                "use base='anchored', which leaves it as it is"
            )


def check_fits(
    model: nn.Module, path: Path, saved: SavedStart, factors: Mapping[str, StockFactors]
) -> list[Start]:
    """The starts of a saved adapter.

    Raises:
        UserError: the files of a folder do not belong to the model or to each other.
    """
    for name, (A, B) in factors.items():
        shape, needed = _weight_shape(model, name, path), (B.shape[0], A.shape[1])
        if shape != needed:
            raise UserError(
                f"{path}: adapts a weight of shape {needed} at {name}, where this model has "
                f"{shape}; load it into the model it was made for"
            )
    projections = projections_of(model, saved.config)
    spectral = {p.key for p in projections if saved.config.roles[p.role].spectral}
    odd = spectral.symmetric_difference(saved.anchors)
    odd |= {projection.name for projection in projections} - set(factors)
    if odd:
        raise UserError(
            f"{path}: the adapter and its anchors are not of the same modules, see {min(odd)}; "
            "copy the whole adapter folder again"
        )
    roles = saved_roles(projections, saved, factors)
    for role in roles:
        if role.projection.key in spectral:
            _check_anchor(path, saved, role)
            # LoRA-GA's factors come from a gradient: nothing of the weight tells them apart.
            if not role.anchored and saved.config.roles[role.projection.role].init != "lora_ga":
                _check_not_folded(path, saved, role)
    return saved_starts(roles, saved)


def _weight_shape(model: nn.Module, name: str, path: Path) -> tuple[int, ...]:
    base = unwrapped(model)
    try:
        module = base.get_submodule(name)
        return shape_of(getattr(module, "base_layer", module))
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: adapts {name}, which this {type(base).__name__} does not have; "
            "load it into the model it was made for"
        ) from error


def _check_anchor(path: Path, saved: SavedStart, role: SavedRole) -> None:
    """Anchored: A0 + D_A is the upper half of A', up to a cast of the file to 16 bits."""
    anchor = saved.anchors[role.projection.key]
    if role.anchored:
        belongs = set(anchor) == {"A"} and _upper_half_is(role.A.double(), anchor["A"].double())
    else:
        shapes = (role.A.shape, role.B.shape)
        belongs = set(anchor) == {"A", "B"} and (anchor["A"].shape, anchor["B"].shape) == shapes
    if not belongs:
        raise UserError(
            f"{path}: the anchor of {role.projection.key} does not belong to this adapter; copy "
            "adapter_model.safetensors and ailora_anchor.safetensors from one folder"
        )


def _check_not_folded(path: Path, saved: SavedStart, role: SavedRole) -> None:
    """Folded: W = W_r + s B0 A0 with B0^T W_r = 0, so B0^T W A0^T = s (B0^T B0)(A0 A0^T)."""
    anchor = saved.anchors[role.projection.key]
    A, B = anchor["A"].double(), anchor["B"].double()
    scaling = stored_scaling(saved.config, role.projection.role)
    wanted = scaling * (B.T @ B) @ (A @ A.T)
    found = B.T @ role.projection.weight().detach().cpu().double() @ A.T
    if wanted.any() and (found * wanted).sum() < 0.5 * wanted.square().sum():
        raise UserError(
            f"{path}: its start is already taken out of {role.projection.key} (a residual model "
            "as `ailora init` writes): load it with peft.PeftModel.from_pretrained there, or "
            "ailora.load_adapter it into the original model"
        )


def _upper_half_is(A: Tensor, A0: Tensor) -> bool:
    if (2 * A0.shape[0], *A0.shape[1:]) != tuple(A.shape):
        return False
    upper, lower = A.chunk(2)
    return bool(torch.linalg.norm(A0 + lower - upper) <= 2**-8 * torch.linalg.norm(upper))
