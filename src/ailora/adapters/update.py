"""How far training moved each weight, from the low-rank factors alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor

from ailora.adapters import peft_insides
from ailora.adapters.attach import projections
from ailora.adapters.factors import Part, cut
from ailora.adapters.record import Record
from ailora.linalg import LowRank
from ailora.roles import (
    ATTENTION_ROLES,
    Projection,
    RoleKey,
    assign_roles,
    take_rows,
    unwrapped,
)
from ailora.roles.experts import ExpertProjection


@dataclass(frozen=True, kw_only=True)
class UpdateNorm:
    """||dW||_F of one projection, absolute and relative to the pre-trained ||W||_F."""

    name: str
    role: RoleKey
    norm: float
    relative: float


@dataclass(frozen=True, kw_only=True, eq=False)
class RoleUpdate:
    """What training added to one projection, all in float64.

    Attributes:
        projection: The weight, or the rows of a fused weight, that it is for.
        change: dW = s (B A - B0 A0), of rank 2r where a start is taken off.
        B: The factor as trained, (m, r).
        A: The factor as trained, (r, n).
        start: B0 and A0 where the adapter has them; None for Gaussian starts and PEFT's own.
        folded: s B0 A0 where the base holds W - s B0 A0; else None.
    """

    projection: Projection
    change: LowRank
    B: Tensor
    A: Tensor
    start: tuple[Tensor, Tensor] | None = None
    folded: LowRank | None = None

    def weight(self) -> Tensor:
        """The pre-trained W (m, n), float64."""
        W = self.projection.weight().double()
        return W if self.folded is None else W + self.folded.matrix().to(W.device)


@torch.no_grad()
def role_updates(model: PeftModel, adapter: str = "default") -> list[RoleUpdate]:
    """B, A, B0, A0 and dW of every projection that a LoRA adapts, in model order.

    DoRA's learned norms are not in it: there W + dW is what is normalised.
    """
    base = unwrapped(model)
    layers = peft_insides.lora_layers(base, adapter)
    record = getattr(model.peft_config[adapter], "record", None)
    if record is None:
        found = assign_roles(model, layers, ATTENTION_ROLES, strict=False)
        return [_stock(p, layers[p.name], adapter) for p in found if p.role != "*"]
    by_key, updates = projections(base, record), []
    for name in (name for name in layers if name in record.layers):
        layer = layers[name]
        A, B = (m[adapter].weight.detach().double() for m in (layer.lora_A, layer.lora_B))
        blocks = record.layers[name]
        for block, part in zip(blocks, cut(A, B, blocks), strict=True):
            key, scale = block.key(name), layer.scaling[adapter]
            for projection, one in _each(by_key[key], part):
                updates.append(_started(projection, one, scale, record, key))
    return updates


def _each(projection: Projection, part: Part) -> list[tuple[Projection, Part]]:
    """The experts of a stack one by one; anything else as it is."""
    if not isinstance(projection, ExpertProjection):
        return [(projection, part)]
    found: list[tuple[Projection, Part]] = []
    for e, one in enumerate(projection.each()):
        A0, B0 = (None if M is None else M[e] for M in (part.A0, part.B0))
        found.append((one, Part(A=part.A[e], B=part.B[e], A0=A0, B0=B0)))
    return found


@torch.no_grad()
def update_norms(model: PeftModel, adapter: str = "default") -> list[UpdateNorm]:
    """Frobenius norms of dW = s (B A - B0 A0) for every adapted projection, in model order.

    dW has rank 2r at most, so its norm comes from two thin QRs and dW itself is never built.
    """
    norms = []
    for update in role_updates(model, adapter):
        norm = update.change.norm()
        norms.append(
            UpdateNorm(
                name=update.projection.key,
                role=update.projection.role,
                norm=float(norm),
                relative=float(norm / torch.linalg.norm(update.weight())),
            )
        )
    return norms


def _stock(projection: Projection, layer: peft_insides.LoraLayer, adapter: str) -> RoleUpdate:
    A, B = (m[adapter].weight.detach().double() for m in (layer.lora_A, layer.lora_B))
    if projection.rows is not None:
        B = take_rows(B, projection.rows)
    change = LowRank(A=A, B=B, scale=layer.scaling[adapter])
    return RoleUpdate(projection=projection, change=change, A=A, B=B)


def _started(
    projection: Projection, part: Part, scale: float, record: Record, key: str
) -> RoleUpdate:
    A, B, A0, B0 = part.A, part.B, part.A0, part.B0
    folded = None
    if A0 is None and f"{key}.A" in record.anchors:
        A0, B0 = (record.anchors[f"{key}.{letter}"].to(A) for letter in "AB")
        folded = LowRank(A=A0, B=B0, scale=scale)
    if A0 is None or B0 is None:
        change = LowRank(A=A, B=B, scale=scale)
        return RoleUpdate(projection=projection, change=change, A=A, B=B)
    change = LowRank(A=torch.cat([A, A - A0]), B=torch.cat([B - B0, B0], dim=1), scale=scale)
    return RoleUpdate(projection=projection, change=change, A=A, B=B, start=(B0, A0), folded=folded)
