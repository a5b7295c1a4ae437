"""Either part from the full SVD in fp64: the reference, and what everything falls back to."""

from __future__ import annotations

import torch
from torch import Tensor

from ailora.linalg.triplets import Part, Solution


def dense(W: Tensor, rank: int, part: Part) -> Solution:
    """`rank` triplets from one end of the thin SVD.

    Args:
        W: (m, n) float64, finite.
        rank: 1 <= rank <= min(m, n).
        part: which end of the spectrum.

    Returns:
        The triplets, in descending order.
    """
    U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    wanted = slice(None, rank) if part == "principal" else slice(S.shape[0] - rank, None)
    following = rank if part == "principal" else S.shape[0] - rank - 1
    return Solution(
        U[:, wanted],
        S[wanted],
        Vt[wanted],
        sigma_1=float(S[0]),
        following=float(S[following]) if rank < S.shape[0] else None,
    )
