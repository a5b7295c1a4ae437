"""How far apart two subspaces are."""

from __future__ import annotations

import torch
from torch import Tensor

from ailora.errors import UserError


def subspace_distance(A: Tensor, B: Tensor) -> float:
    """``||P_A - P_B||_2``, the sine of the largest principal angle between two column spaces.

    Computed from what is left of B after projecting it off A, as Bjorck and Golub (1973) advise:
    the cosine, ``||A^T B||``, cannot tell an angle below 1e-8 from zero.

    Args:
        A: (n, r), columns independent, not necessarily orthonormal. For right singular vectors
            pass ``Vt.T``.
        B: (n, r), likewise.

    Returns:
        Between 0 (the same subspace) and 1 (some direction of one is orthogonal to the other).

    Raises:
        UserError: A and B are not both (n, r) with r <= n.
    """
    if A.ndim != 2 or A.shape != B.shape or A.shape[1] > A.shape[0]:
        raise UserError(
            f"subspace_distance: shapes {tuple(A.shape)} and {tuple(B.shape)} are not both (n, r) "
            "with r <= n; pass the vectors as columns"
        )
    if A.shape[1] == 0:
        return 0.0
    P, Q = (torch.linalg.qr(X.detach().to(torch.float64)).Q for X in (A, B))
    rest = Q - P @ (P.T @ Q)
    return min(1.0, float(torch.linalg.matrix_norm(rest, ord=2)))
