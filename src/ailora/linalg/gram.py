"""Either part from the eigenvectors of the smaller Gram matrix, in fp64; few digits in fp32.

For rectangular weights (grouped-query attention: 1024 x 4096), small ones, and what a Krylov method
finds too flat. Squaring W squares its condition: an eigenvector for sigma carries an error of about
eps * sigma_1^2 / gap, a sigma below sqrt(eps) * sigma_1 is lost in it. `refine`, on W itself,
restores what is lacking.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ailora.linalg.eigen import eigh_end
from ailora.linalg.inverse import inverse_map
from ailora.linalg.refine import operator, refine
from ailora.linalg.triplets import Part, Solution, residuals

_PANEL = 512  # columns; one triangle of the product, some 45 % saved at n = 4096
# Error of G's eigenvectors, relative to sigma_1^2, with a margin of ten.
_ROUNDING = {torch.float64: 1e-14, torch.float32: 5e-6}


def gram(W: Tensor, rank: int, part: Part, *, tol: float) -> Solution:
    """`rank` triplets from one end of the spectrum.

    Args:
        W: (m, n) float64, finite, entries of order 1 (they are squared).
        rank: 1 <= rank <= min(m, n).
        part: which end of the spectrum.
        tol: see `refine`.

    Returns:
        The triplets, in descending order.
    """
    wide = W.shape[0] < W.shape[1]
    tall = W.T if wide else W
    G = gram_matrix(tall)
    values, X, largest = eigh_end(G, min(rank + 1, G.shape[0]), part)
    values = values.clamp(min=0)
    sigma_1 = math.sqrt(largest)
    if clean(values[:rank], part, tol, largest):
        P, S, V = projected(tall, X[:, :rank])
        following = float(values[rank].sqrt()) if values.shape[0] > rank else None
    else:
        found = refine(
            operator(tall),
            X.T,
            rank,
            part,
            tol=tol,
            sigma_1=sigma_1,
            inverse=(lambda: inverse_map(tall)) if part == "minor" else None,
        )
        P, S, V, following = found.U.T, found.S, found.V.T, found.following
    U, V = (V, P) if wide else (P, V)
    return Solution(U, S, V.T, sigma_1, following=following)


def rough(low: Tensor, rank: int, *, tol: float) -> Solution | None:
    """The `rank` largest singular triplets of W to few digits, everything in fp32.

    Half of what float64 takes: 4096 x 4096, rank 128, one thread, 4.1 s instead of 7.5.

    Args:
        low: W (m, n), float32, entries of order 1.
        rank: 1 <= rank <= min(m, n).
        tol: residual relative to sigma_1.

    Returns:
        The triplets, in float64, with the residual that they were found to have; None where
        float32 does not reach `tol`.
    """
    wide = low.shape[0] < low.shape[1]
    tall = low.T if wide else low
    G = gram_matrix(tall)
    values, X, largest = eigh_end(G, min(rank + 1, G.shape[0]), "principal")
    values = values.double().clamp(min=0)
    if not clean(values[:rank], "principal", tol, largest, _ROUNDING[torch.float32]):
        return None
    P, S, V = projected(tall, X[:, :rank])
    sigma_1 = math.sqrt(largest)
    error = float(residuals(tall, P, S, V.T, S.new_tensor(sigma_1)))
    if not error <= tol:
        return None
    following = float(values[rank].sqrt()) if values.shape[0] > rank else None
    U, V = (V, P) if wide else (P, V)
    found = (U.double(), S.double(), V.T.double())
    return Solution(*found, sigma_1, following=following, residual=error)


def clean(
    values: Tensor,
    part: Part,
    tol: float,
    largest: float,
    rounding: float = _ROUNDING[torch.float64],
) -> bool:
    """Whether eigenvectors of G are as good as `refine` would make them.

    A residual is G's rounding over sigma, and stands against tol times the kept sigma furthest
    inside: what counts is the product of two kept sigma. So a long minor part is often clean (rank
    128 of 384: 9 of 24 ms saved); of a principal part, whose first sigma is large, each must be by
    itself.

    Args:
        values: Eigenvalues kept, sigma^2.
        part: Which end they are.
        tol: See `refine`.
        largest: The largest eigenvalue.
        rounding: G's own, relative to that.
    """
    low, high = float(values.min()), float(values.max())
    product = low if part == "principal" else math.sqrt(low * high)
    return product * tol > rounding * largest


def projected(W: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets P, S, V from eigenvectors X: columns of W X are orthogonal, but for rounding.

    Args:
        W: (..., m, n), m >= n.
        X: (..., n, r).

    Returns:
        (..., m, r), (..., r) descending and (..., n, r).
    """
    P, R = torch.linalg.qr(W @ X)
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    S, order = diagonal.abs().sort(descending=True, stable=True)
    P, order = P * diagonal.sign()[..., None, :], order[..., None, :]
    return P.gather(-1, order.expand_as(P)), S, X.gather(-1, order.expand_as(X))


def gram_matrix(W: Tensor) -> Tensor:
    """W^T W (n, n), at little more than half of a full product's cost."""
    n = W.shape[1]
    if n <= _PANEL:  # copying a triangle would take longer than computing it
        return W.T @ W
    G = W.new_empty(n, n)
    for start in range(0, n, _PANEL):
        panel = slice(start, min(start + _PANEL, n))
        rows = W[:, panel].T @ W[:, start:]
        G[panel, start:], G[start:, panel] = rows, rows.T
    return G
