"""How far training moved each weight, from the low-rank factors alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor

from ailora.adapters.starts.make import projections_of
from ailora.adapters.stock import peft_layers
from ailora.roles import RoleName, find_projections


@dataclass(frozen=True, kw_only=True)
class UpdateNorm:
    """||dW||_F of one projection, absolute and relative to the pre-trained ||W||_F."""

    name: str
    role: RoleName
    norm: float
    relative: float


@torch.no_grad()
def update_norms(model: PeftModel, adapter: str = "default") -> list[UpdateNorm]:
    """Frobenius norms of dW = s (B A - B0 A0) for every adapted projection, in model order.

    dW has rank 2r at most, so its norm comes from two thin QRs and dW itself is never built.
    """
    factors = peft_layers.role_factors(model, adapter)
    lora = model.peft_config[adapter]
    config, folded = getattr(lora, "start_config", None), getattr(lora, "anchors", None) or {}
    found = projections_of(model, config) if config else find_projections(model)
    norms = []
    for projection in found:
        if projection.key not in factors:
            continue
        role = factors[projection.key]
        A, B, scaling = role.A.weight.double(), role.B.weight.double(), role.scaling
        weight = projection.weight().double()
        A0, B0 = (folded.get(f"{projection.key}.{letter}") for letter in "AB")
        if isinstance(A0, Tensor) and isinstance(B0, Tensor):
            A0, B0 = A0.to(A), B0.to(B)
            weight = weight + scaling * B0 @ A0
            A, B = torch.cat([A, A0]), torch.cat([B, -B0], dim=1)
        norm = scaling * product_norm(B, A)
        norms.append(
            UpdateNorm(
                name=projection.key,
                role=projection.role,
                norm=float(norm),
                relative=float(norm / torch.linalg.norm(weight)),
            )
        )
    return norms


def product_norm(B: Tensor, A: Tensor) -> Tensor:
    """||B A||_F of B (m x k) and A (k x n), k small, by QR: Gram matrices square the error."""
    norm: Tensor = torch.linalg.norm(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
    return norm
