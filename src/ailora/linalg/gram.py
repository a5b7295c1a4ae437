"""Either part from the eigenvectors of the smaller Gram matrix, in fp64; few digits in fp32.

For rectangular weights (grouped-query attention: 1024 x 4096), small ones, and what a Krylov method
finds too flat. Squaring W squares its condition: an eigenvector for sigma carries an error of about
eps * sigma_1^2 / gap, a sigma below sqrt(eps) * sigma_1 is lost in it. `refine`, on W itself,
restores what is lacking.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ailora.linalg.eigen import eigh_end
from ailora.linalg.inverse import inverse_map
from ailora.linalg.krylov import start_block
from ailora.linalg.refine import Operator, operator, orthonormalise, refine
from ailora.linalg.triplets import Part, Solution, residuals

_PANEL = 512  # columns; one triangle of the product, some 45 % saved at n = 4096
_MORE = 4  # random rows beside as many as are wanted
# Error of G's eigenvectors, relative to sigma_1^2, with a margin of ten.
_ROUNDING, _ROUNDING_FP32 = 1e-14, 5e-6


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
        start, inverse = X.T, None
        if part == "minor":
            inverse = cache(lambda: inverse_map(tall))
            start = _with_more(start, inverse, values, largest, tol)
        found = refine(operator(tall), start, rank, part, tol=tol, sigma_1=sigma_1, inverse=inverse)
        P, S, V = found.U.T, found.S, found.V.T
        following = _between(found.following, values[rank:], largest)
    U, V = (V, P) if wide else (P, V)
    return Solution(U, S, V.T, sigma_1, following=following)


def _with_more(
    V: Tensor, inverse: Callable[[], Operator], values: Tensor, largest: float, tol: float
) -> Tensor:
    """More to start a minor part from, where squares do not tell which sigma are the smallest.

    Each of V may be a triplet of W to the last digit, and yet not be among the smallest.
    """
    n = V.shape[1]
    blurred = math.sqrt(_ROUNDING) > tol and float(values[-1]) <= _ROUNDING * largest
    if not blurred or V.shape[0] == n:
        return V
    more = start_block(min(n - V.shape[0], V.shape[0] + _MORE), V, seed=0)
    return torch.cat([V, orthonormalise(inverse().normal(more), V)])


def _between(sigma: float | None, square: Tensor, largest: float) -> float | None:
    """A neighbour's sigma, held to its square in G: a Ritz value may be any other."""
    if sigma is None or not len(square):
        return sigma
    low, high = float(square[0]) - _ROUNDING * largest, float(square[0]) + _ROUNDING * largest
    return min(max(sigma, math.sqrt(max(low, 0.0))), math.sqrt(high))


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
    if not clean(values[:rank], "principal", tol, largest, _ROUNDING_FP32):
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
    rounding: float = _ROUNDING,
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
    P, order = P * torch.where(diagonal < 0, -1.0, 1.0)[..., None, :], order[..., None, :]
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
