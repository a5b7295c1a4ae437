"""The fewest of the largest triplets that keep a share of a weight's energy, ||W||_F^2.

How many that are is not known before: the rank is doubled while block Krylov is quick, and since no
later singular value is above the last one found, each attempt also says how many are needed at
least. Where that is more than Krylov is quick at, and for small weights, all eigenvalues of the
smaller Gram matrix say it: their sum of squares needs no more digits than these have.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from ailora.errors import UserError
from ailora.linalg.decomposition import decompose, exponent_of, methods_for, validate
from ailora.linalg.gram import gram_matrix
from ailora.linalg.triplets import Triplets, outermost

_FIRST = 16


@torch.no_grad()
def decompose_share(weight: Tensor, share: float, *, seed: int = 0, tol: float = 1e-8) -> Triplets:
    """The fewest largest triplets with ``sum of sigma_i^2 >= share * ||W||_F^2``.

    Args:
        weight: (m, n), float16, bfloat16, float32 or float64.
        share: Share of the energy to keep, between 0 and 1, both excluded.
        seed: See `decompose`.
        tol: See `decompose`.

    Returns:
        The triplets, one at least, as `decompose` of that rank; float64.

    Raises:
        UserError: ``share`` is out of range, and as `decompose`.
    """
    if isinstance(share, bool) or not 0 < share < 1:
        raise UserError(
            f"decompose_share: share={share!r} is not between 0 and 1; pass a value such as 0.95"
        )
    largest = validate(weight, 1, "principal", seed, tol)
    weight = weight.to("cpu") if weight.device.type == "mps" else weight  # it has no float64
    if largest == 0:
        return decompose(weight, 1, "principal", seed=seed, tol=tol)
    exponent = exponent_of(largest)
    W = weight.detach().double() * 2.0**-exponent
    wanted = share * float(torch.linalg.vector_norm(W)) ** 2
    rank = _FIRST
    while methods_for((W.shape[0], W.shape[1]), rank, "principal", tol)[0] == "krylov":
        found = decompose(weight, rank, "principal", seed=seed, tol=tol)
        energy = (found.S * 2.0**-exponent).square()
        reached = _reached(energy, wanted)
        if reached:
            return outermost(found, reached)
        if found.check.method != "krylov":
            break  # too flat
        lacking = (wanted - float(energy.sum())) / max(float(energy[-1]), sys.float_info.min)
        rank = max(2 * rank, rank + math.ceil(min(lacking, min(W.shape))))
    G = gram_matrix(W if W.shape[0] >= W.shape[1] else W.T)
    energy = torch.linalg.eigvalsh(G).flip(0).clamp(min=0)
    # Rounding may leave the sum a little below the norm.
    rank = _reached(energy, wanted) or len(energy)
    return decompose(weight, rank, "principal", seed=seed, tol=tol)


def _reached(energy: Tensor, wanted: float) -> int:
    """How many of these are needed, 0 if all are not enough."""
    enough = energy.cumsum(0) >= wanted
    return int(enough.int().argmax()) + 1 if bool(enough.any()) else 0
