"""Minor part of a square weight, from its inverse.

W = U S V^T has the inverse transpose C = W^-T = U S^-1 V^T: the smallest triplets of W are the
largest of C, with the same u and v. The spectrum's lower end, hopelessly clustered relative to
sigma_1, is well separated in C. C only has to be good enough for a start and a preconditioner:
`refine` computes on W itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ailora.linalg.krylov import Ritz, estimate_norm, search, start_block
from ailora.linalg.refine import Operator, operator, refine
from ailora.linalg.triplets import Solution, StalledError

# 4096 x 4096, one thread: the LU takes 0.87 s in fp32, 1.41 s in fp64. One in fp32 knows the small
# sigma to cond * eps only; as a preconditioner 10 % are enough.
_FLOAT32_KNOWS = 0.1
_FLOAT32_TOL = 1e-5  # residual of C; what follows in `refine` takes no longer from there
_KEPT_BLOCKS = 3  # blocks of Ritz vectors that make the start
_BASIS_BLOCKS = 10  # a lower end so clustered that it takes more is for the Gram matrix
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
    ritz = _largest(C, low, rank, seed)
    if not float(ritz.S[0]) * sigma_1 * torch.finfo(low.dtype).eps < _FLOAT32_KNOWS:
        C = inverse_map(W)
        ritz = _largest(C, W, rank, seed)
    if not ritz.converged:
        raise StalledError(f"residual {ritz.error:.1e} after {ritz.blocks} blocks")
    found = refine(
        operator(W), ritz.V.double(), rank, "minor", tol=tol, sigma_1=sigma_1, inverse=lambda: C
    )
    blocks = ritz.blocks + found.steps
    return Solution(found.U.T, found.S, found.V, sigma_1, blocks, found.following)


def _largest(C: Operator, like: Tensor, rank: int, seed: int) -> Ritz:
    """Approximate triplets of C, by block Krylov in the arithmetic of `like`."""
    width = min(like.shape[0], rank + max(4, rank // 16))
    found = search(
        C,
        start_block(width, like, seed=seed),
        rank,
        keep=_KEPT_BLOCKS * width,
        tol=_FLOAT32_TOL,
        basis=_BASIS_BLOCKS * width,
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
