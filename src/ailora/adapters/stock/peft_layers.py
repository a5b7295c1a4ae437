"""The one place that touches PEFT's layers: everything relied on has a contract test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ailora.adapters.factors.anchored import AnchoredA, AnchoredB, Factor
from ailora.adapters.factors.fused import FusedA, FusedB, PlainFactor
from ailora.adapters.starts.make import Start
from ailora.adapters.stock.lora_config import by_layer
from ailora.roles import unwrapped


class RoleFactors(NamedTuple):
    """One role's factors in a wrapped model.

    `A` and `B` are an ``nn.Linear`` or a `Factor`, each with a ``weight``; ``scaling`` is s of this
    role, which in a fused layer need not be the layer's.
    """

    A: Any
    B: Any
    scaling: float


def install(model: PeftModel, adapter: str, starts: Sequence[Start], *, anchored: bool) -> None:
    """Put the starting factors into the adapter's layers; the base is not touched.

    Factors get the dtype that PEFT gave the adapter (fp32 over fp16 and bf16 bases unless asked
    otherwise).
    """
    for name, roles in by_layer(starts):
        layer = lora_layer(model, name)
        if roles[0].projection.rows is not None:
            _put_fused(layer, adapter, roles, anchored)
        elif anchored and roles[0].spectral:
            _put(layer, adapter, *_part(layer, adapter, roles[0], anchored))
        else:
            _fill(layer, adapter, roles[0])


def _put_fused(layer: LoraLayer, adapter: str, roles: Sequence[Start], anchored: bool) -> None:
    parts = {start.role: _part(layer, adapter, start, anchored) for start in roles}
    B = FusedB(
        {role: B for role, (_, B) in parts.items()},
        rows={start.role: start.projection.rows or () for start in roles},
        gains={start.role: start.scaling / roles[0].scaling for start in roles},
        out_features=layer.out_features,
    )
    _put(layer, adapter, FusedA({role: A for role, (A, _) in parts.items()}), B)


def _part(layer: LoraLayer, adapter: str, start: Start, anchored: bool) -> tuple[Factor, Factor]:
    like = layer.lora_A[adapter].weight
    A, B = start.A.to(like), start.B.to(like)
    if anchored and start.spectral:
        return AnchoredA(A, start.lr_ratio), AnchoredB(B, start.lr_ratio)
    return PlainFactor(A, start.lr_ratio), PlainFactor(B, start.lr_ratio)


def _put(layer: LoraLayer, adapter: str, A: Factor, B: Factor) -> None:
    """Replace a stock layer's two factors."""
    trainable = layer.lora_A[adapter].weight.requires_grad
    layer.lora_A[adapter] = A.requires_grad_(trainable)
    layer.lora_B[adapter] = B.requires_grad_(trainable)


@torch.no_grad()
def _fill(layer: LoraLayer, adapter: str, start: Start) -> None:
    """A stock layer's factors stay, with other values."""
    for module, value in ((layer.lora_A[adapter], start.A), (layer.lora_B[adapter], start.B)):
        module.weight.copy_(value)
        module.lr_ratio = start.lr_ratio


@torch.no_grad()
def restore(model: PeftModel, adapter: str, name: str, A: Tensor, B: Tensor) -> None:
    """Set a layer's factors from stock matrices, their anchors and differences bit for bit."""
    layer = lora_layer(model, name)
    for module, weight in ((layer.lora_A[adapter], A), (layer.lora_B[adapter], B)):
        if isinstance(module, Factor):
            module.restore(weight.to(next(module.parameters())))
        else:
            module.weight.copy_(weight)


def lora_layer(model: nn.Module, name: str) -> LoraLayer:
    """The LoRA layer that PEFT put around the module of that name."""
    return cast(LoraLayer, unwrapped(model).get_submodule(name))


def lora_layers(model: nn.Module, adapter: str) -> dict[str, LoraLayer]:
    """The layers that the adapter has factors in, by the name of the wrapped module."""
    return {
        name: layer
        for name, layer in unwrapped(model).named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }


def role_factors(model: nn.Module, adapter: str) -> dict[str, RoleFactors]:
    """The adapter's factors by `Projection.key`: whole layers by name, fused ones by role."""
    found: dict[str, RoleFactors] = {}
    for name, layer in lora_layers(model, adapter).items():
        A, B, scaling = layer.lora_A[adapter], layer.lora_B[adapter], layer.scaling[adapter]
        if isinstance(A, FusedA):
            for role, part in A.roles():
                found[f"{name}.{role}"] = RoleFactors(part, B.part(role), scaling * B.gains[role])
        else:
            found[name] = RoleFactors(A, B, scaling)
    return found


def anchors(model: nn.Module, adapter: str) -> dict[str, AnchoredA]:
    """The adapter's anchored lora_A modules under the keys that their anchors are saved by."""
    return {
        f"{key}.A": factors.A
        for key, factors in role_factors(model, adapter).items()
        if isinstance(factors.A, AnchoredA)
    }
