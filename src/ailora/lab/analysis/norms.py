"""How far each weight moved: the Frobenius norms of the paper's figure 1 (c, d)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ailora.lab.analysis.changes import Change
from ailora.roles.position import Position, spread


@dataclass(frozen=True, kw_only=True)
class WeightNorm(Position):
    """How far one projection moved.

    Attributes:
        norm: ||dW||_F.
        relative: ||dW||_F / ||W||_F of the pre-trained W; infinite where W is zero and dW is not.
    """

    norm: float
    relative: float


@torch.no_grad()
def weight_norms(changes: Iterable[Change]) -> list[WeightNorm]:
    """||dW||_F and ||dW||_F / ||W||_F of every change, in their order.

    Args:
        changes: From `adapter_changes` (dW = s (B A - B0 A0), by QR of its factors),
            `changes_between` or `ailora.lab.analysis.runs.read_run`.
    """
    return [_norm(change) for change in changes]


def _norm(change: Change) -> WeightNorm:
    norm, whole = change.norm(), float(torch.linalg.norm(change.weight()))
    relative = norm / whole if whole else (float("inf") if norm else 0.0)
    return WeightNorm(**spread(change.place), norm=norm, relative=relative)
