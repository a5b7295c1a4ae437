"""Either part from the full SVD in fp64: the reference, and what everything falls back to.

LAPACK's divide and conquer neglects what is below 90 eps sigma_1; one-sided Jacobi does not, at
several times the cost (Drmac and Veselic, "New fast and accurate Jacobi SVD algorithm", 2008).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ailora.linalg.triplets import Part, Solution

_JACOBI_UP_TO = 400


def dense(W: Tensor, rank: int, part: Part) -> Solution:
    """`rank` triplets from one end of the thin SVD.

    Args:
        W: (m, n) float64, finite.
        rank: 1 <= rank <= min(m, n).
        part: which end of the spectrum.

    Returns:
        The triplets, in descending order.
    """
    try:
        U, S, Vt = torch.linalg.svd(W, full_matrices=False)
    except LinAlgError:  # rare, and of one of W and its transpose only
        V, S, Ut = torch.linalg.svd(W.mT, full_matrices=False)
        U, Vt = Ut.mT, V.mT
    return _end(U, S, Vt, rank, part)


def accurate_enough(error: float, W: Tensor) -> bool:
    """Whether Jacobi would not do better than that residual, or takes too long."""
    small = W.device.type == "cpu" and min(W.shape) <= _JACOBI_UP_TO
    return not small or error <= 10 * math.sqrt(max(W.shape)) * torch.finfo(W.dtype).eps


def jacobi(W: Tensor, rank: int, part: Part) -> Solution:
    """As `dense`, on the CPU, to the last digits.

    Raises:
        LinAlgError: no convergence.
    """
    from scipy.linalg import lapack  # noqa: PLC0415 - as in eigen.py

    tall = W if W.shape[0] >= W.shape[1] else W.T
    A = np.asfortranarray(tall.numpy())
    S, P, Q, _, _, info = lapack.dgejsv(A)  # what it scaled S by is 1 at W's size
    if info != 0:
        raise LinAlgError(f"dgejsv ended with {info}")
    P, S, Q = (torch.from_numpy(x) for x in (P[:, : len(S)], S, Q))
    U, Vt = (P, Q.T) if tall is W else (Q, P.T)
    return _end(U, S, Vt, rank, part)


def _end(U: Tensor, S: Tensor, Vt: Tensor, rank: int, part: Part) -> Solution:
    wanted = slice(None, rank) if part == "principal" else slice(S.shape[0] - rank, None)
    following = rank if part == "principal" else S.shape[0] - rank - 1
    return Solution(
        U[:, wanted],
        S[wanted],
        Vt[wanted],
        sigma_1=float(S[0]),
        following=float(S[following]) if rank < S.shape[0] else None,
    )
