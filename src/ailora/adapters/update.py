"""How far training moved each weight, from the low-rank factors alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from ailora.adapters.factors.anchored import AnchoredA
from ailora.adapters.starts.make import projections_of
from ailora.adapters.stock import peft_layers
from ailora.roles import Projection, RoleName, find_projections


@dataclass(frozen=True, kw_only=True)
class UpdateNorm:
    """||dW||_F of one projection, absolute and relative to the pre-trained ||W||_F."""

    name: str
    role: RoleName
    norm: float
    relative: float


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRankUpdate:
    """dW = s (B A - B0 A0) = left @ right of one projection, all in float64.

    Attributes:
        projection: The weight, or the rows of a fused weight, that it is for.
        left: (m, k), the scale s in it; k is r, and 2r where a start is taken off.
        right: (k, n).
        B: The factor as trained, (m, r).
        A: The factor as trained, (r, n).
        start: B0 and A0 where the adapter keeps them; None for Gaussian starts and PEFT's own.
        folded: s B0 A0 where the base holds W - s B0 A0, as (m, r) and (r, n); else None.
    """

    projection: Projection
    left: Tensor
    right: Tensor
    B: Tensor
    A: Tensor
    start: tuple[Tensor, Tensor] | None = None
    folded: tuple[Tensor, Tensor] | None = None

    def weight(self) -> Tensor:
        """The pre-trained W (m, n), float64."""
        W = self.projection.weight().double()
        return W if self.folded is None else W + self.folded[0] @ self.folded[1]


@torch.no_grad()
def low_rank_updates(model: PeftModel, adapter: str = "default") -> list[LowRankUpdate]:
    """B, A, B0, A0 and dW of every projection that a LoRA adapts, in model order.

    DoRA's learned norms are not in it: there W + dW is what is normalised.
    """
    factors = peft_layers.role_factors(model, adapter)
    lora = model.peft_config[adapter]
    config, folded = getattr(lora, "start_config", None), getattr(lora, "anchors", None) or {}
    found = projections_of(model, config) if config else find_projections(model)
    return [
        _update(
            projection,
            factors[projection.key],
            *(folded.get(f"{projection.key}.{letter}") for letter in "BA"),
        )
        for projection in found
        if projection.key in factors
    ]


@torch.no_grad()
def update_norms(model: PeftModel, adapter: str = "default") -> list[UpdateNorm]:
    """Frobenius norms of dW = s (B A - B0 A0) for every adapted projection, in model order.

    dW has rank 2r at most, so its norm comes from two thin QRs and dW itself is never built.
    """
    norms = []
    for update in low_rank_updates(model, adapter):
        norm = product_norm(update.left, update.right)
        norms.append(
            UpdateNorm(
                name=update.projection.key,
                role=update.projection.role,
                norm=float(norm),
                relative=float(norm / torch.linalg.norm(update.weight())),
            )
        )
    return norms


def product_norm(B: Tensor, A: Tensor) -> Tensor:
    """||B A||_F of B (m x k) and A (k x n), k small, by QR: Gram matrices square the error."""
    norm: Tensor = torch.linalg.norm(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
    return norm


def _update(
    projection: Projection, role: peft_layers.RoleFactors, B0: Any, A0: Any
) -> LowRankUpdate:
    A, B = role.A.weight.detach().double(), role.B.weight.detach().double()
    s = role.scaling
    if isinstance(role.A, AnchoredA):  # the stock matrices [A0 + D_A; D_A] and [D_B, B0]
        r = A.shape[0] // 2
        B0, A0 = B[:, r:], role.A.anchor.double()
        return LowRankUpdate(
            projection=projection, left=s * B, right=A, B=B[:, :r] + B0, A=A[:r], start=(B0, A0)
        )
    if isinstance(A0, Tensor) and isinstance(B0, Tensor):
        A0, B0 = A0.to(A), B0.to(B)
        return LowRankUpdate(
            projection=projection,
            left=s * torch.cat([B, -B0], dim=1),
            right=torch.cat([A, A0]),
            A=A,
            B=B,
            start=(B0, A0),
            folded=(s * B0, A0),
        )
    return LowRankUpdate(projection=projection, left=s * B, right=A, A=A, B=B)
