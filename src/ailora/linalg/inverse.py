"""Minor part of a square weight, from its inverse.

W = U S V^T has the inverse transpose C = W^-T = U S^-1 V^T: the smallest triplets of W are the
largest of C, with the same u and v. The spectrum's lower end, hopelessly clustered relative to
sigma_1, is well separated in C. C only has to be good enough for a start and a preconditioner:
`refine` computes on W itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ailora.linalg.krylov import Ritz, estimate_norm, search, start_block
from ailora.linalg.refine import Operator, operator, refine
from ailora.linalg.triplets import Solution, StalledError

# 4096 x 4096, one thread: the LU takes 0.87 s in fp32, 1.41 s in fp64. One in fp32 knows the small
# sigma to cond * eps only; as a preconditioner 10 % are enough.
_FLOAT32_KNOWS = 0.1
_KEPT_BLOCKS = 3  # blocks of Ritz vectors that make the start


class _Effort(NamedTuple):
    """How far a search goes: residual of C, blocks of the basis, columns at least of each."""

    tol: float
    blocks: int
    narrowest: int
    useless: float


# In fp32, to where what follows in `refine` takes no longer. In fp64 for a lower end that is dense
# (log-spaced values, say): a step of `refine` starts from few vectors, Krylov keeps all. Residual
# of C for sigma of 1 to 1e-3, n = 2048, rank 8: 2e-2 after 8 blocks of 32, 2e-6 after 12, 2e-11
# after 16. 16 columns are as quick as 32: 0.36 s.
_FLOAT32 = _Effort(tol=1e-5, blocks=10, narrowest=1, useless=1e-4)
_FLOAT64 = _Effort(tol=1e-8, blocks=28, narrowest=16, useless=5e-2)
_BASIS_SHARE = 4  # in fp64 at most n / 4 columns, or 10 blocks
# Above n / 100 such a rank is for the Gram matrix: n = 2048, rank 32, 0.9 s, and 1.4 s so.
_FLOAT64_SHARE = 100
# A pivot below the one, relative to the largest, becomes the other.
_SINGULAR, _PIVOT = 1e-14, 1e-10


def inverse(W: Tensor, rank: int, *, low: Tensor, seed: int, tol: float) -> Solution:
    """The `rank` smallest singular triplets of W.

    Args:
        W: (n, n) float64, entries of order 1.
        rank: 1 <= rank <= n.
        low: W in float32.
        seed: seed of the random start block.
        tol: see `refine`.

    Returns:
        The triplets; `sigma_1` is an estimate from below.

    Raises:
        StalledError: the lower end is so clustered that the Gram matrix is quicker.
    """
    sigma_1 = estimate_norm(low, seed=seed)
    C = inverse_map(low)
    ritz = _largest(C, low, rank, seed, _FLOAT32)
    known = float(ritz.S[0]) * sigma_1 * torch.finfo(low.dtype).eps < _FLOAT32_KNOWS
    if not (known and ritz.converged) and (not known or rank * _FLOAT64_SHARE <= W.shape[0]):
        C = inverse_map(W)
        ritz = _largest(C, W, rank, seed, _FLOAT64)
    if not (ritz.converged or ritz.error <= _FLOAT32.tol):
        raise StalledError(f"residual {ritz.error:.1e} after {ritz.blocks} blocks")
    found = refine(
        operator(W), ritz.V.double(), rank, "minor", tol=tol, sigma_1=sigma_1, inverse=lambda: C
    )
    blocks = ritz.blocks + found.steps
    return Solution(found.U.T, found.S, found.V, sigma_1, blocks, found.following)


def _largest(C: Operator, like: Tensor, rank: int, seed: int, effort: _Effort) -> Ritz:
    """Approximate triplets of C, by block Krylov in the arithmetic of `like`."""
    n = like.shape[0]
    width = min(n, max(rank + max(4, rank // 16), effort.narrowest))
    few = _FLOAT32.blocks * width
    found = search(
        C,
        start_block(width, like, seed=seed),
        rank,
        keep=_KEPT_BLOCKS * width,
        tol=effort.tol,
        basis=max(few, min(effort.blocks * width, n // _BASIS_SHARE)),
        useless=effort.useless,
    )
    return next(found)


def inverse_map(W: Tensor) -> Operator:
    """C = W^-T in the arithmetic of W (m, n), m >= n, for blocks of any floating dtype.

    Of W a triangular or square factor is decomposed once, by an LU with a guard: where W is
    singular, C is the inverse of a matrix close by.
    """
    m, n = W.shape
    if m == n:
        return _lu_map(W)
    Q, R = torch.linalg.qr(W)
    C = _lu_map(R)
    return Operator(lambda X: C.forward(X) @ Q.T, lambda Y: C.adjoint(Y @ Q), (m, n))


def _lu_map(W: Tensor) -> Operator:
    # LAPACK wants columns: W.T of a row-major W is that already, W would be transposed in a copy.
    LU, pivots, _ = torch.linalg.lu_factor_ex(W.T)
    # As in inverse iteration with an exact eigenvalue, a tiny pivot does not harm the direction.
    diagonal = LU.diagonal()
    largest = diagonal.abs().max()
    diagonal[diagonal.abs() <= _SINGULAR * largest] = _PIVOT * largest

    def solve(X: Tensor, adjoint: bool) -> Tensor:
        solution: Tensor = torch.linalg.lu_solve(LU, pivots, X.T.to(LU.dtype), adjoint=adjoint)
        return solution.T.to(X.dtype)

    return Operator(lambda X: solve(X, False), lambda Y: solve(Y, True), (W.shape[0], W.shape[1]))
