"""Either part from the eigenvectors of the smaller Gram matrix, in fp64.

For rectangular weights (grouped-query attention: 1024 x 4096) and small ones. Squaring W squares
its condition: an eigenvector for sigma carries an error of about eps * sigma_1^2 / gap, a sigma
below sqrt(eps) * sigma_1 is lost in it. A Rayleigh-Ritz step on W itself restores the singular
values; whether the vectors are good enough is for the caller to judge by `noise` and residual.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ailora.linalg.triplets import Part, Solution


def gram(W: Tensor, rank: int, part: Part) -> Solution:
    """`rank` triplets from one end of the spectrum.

    Args:
        W: (m, n) float64, finite, entries of order 1 (they are squared).
        rank: 1 <= rank <= min(m, n).
        part: which end.

    Returns:
        The triplets, in descending order.
    """
    wide = W.shape[0] < W.shape[1]
    tall = W.T if wide else W
    values, vectors = torch.linalg.eigh(tall.T @ tall)  # ascending
    X = vectors[:, -rank:] if part == "principal" else vectors[:, :rank]
    P, S, Yt = torch.linalg.svd(tall @ X, full_matrices=False)
    V = X @ Yt.T
    sigma_1 = float(values[-1].clamp(min=0).sqrt())
    if wide:
        P, V = V, P
    return Solution(P, S, V.T, sigma_1)


def noise(solution: Solution) -> float:
    """Error of the Gram eigenvectors relative to the gaps among the kept sigma^2, about.

    ``eps * (sigma_1 / sigma)^2`` for the largest sigma kept; inf if that is 0.
    """
    kept = float(solution.S[0]) / solution.sigma_1
    return torch.finfo(torch.float64).eps / kept**2 if kept > 1e-150 else float("inf")
