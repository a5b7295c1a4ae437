"""Minor part from the inverse, in fp64: square weights, and others through their QR factor.

W = U S V^T has the inverse transpose C = W^-T = U S^-1 V^T: the smallest triplets of W are the
largest of C, with the same u and v. The spectrum's lower end, hopelessly clustered relative to
sigma_1, is well separated in C. float32 will not do: its LU loses exactly this end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ailora.linalg.gram import gram
from ailora.linalg.krylov import Operator, block_krylov, estimate_norm, operator
from ailora.linalg.triplets import Solution

# The explicit inverse and its eigenvectors take a time that no spectrum changes. On 2 cores,
# rank 8, against the iteration (Gaussian to sigma_i = 1/i): n = 384: 22 ms against 15 to 128,
# n = 512: 46 against 20 to 142, n = 768: 112 against 32 to 248, n = 1024: 250 against 53 to 427.
_EXPLICIT_UP_TO = 512
_KRYLOV_SHARE = 8  # the basis, some 8 blocks of r vectors, is worth it only below n
_MARGIN = 0.1  # the subspace's error is the residual divided by the relative gap


class SingularWeightError(ArithmeticError):
    """W is singular: there is no inverse to work with."""


def inverse(W: Tensor, rank: int, *, seed: int, tol: float) -> Solution:
    """The `rank` smallest singular triplets of a square W.

    Args:
        W: (n, n) float64, entries of order 1.
        rank: 1 <= rank <= n.
        seed: of the start block, used where n is large enough to iterate.
        tol: see `block_krylov`; it applies to C, whose gaps are those of 1 / sigma.

    Returns:
        The triplets; `sigma_1` is an estimate from below.

    Raises:
        SingularWeightError: W has an exactly zero pivot.
        torch.linalg.LinAlgError: the inverse overflows.
    """
    n = W.shape[0]
    explicit = n <= _EXPLICIT_UP_TO or rank * _KRYLOV_SHARE > n
    U, V, blocks = _explicit(W, rank) if explicit else _iterated(W, rank, seed, tol * _MARGIN)
    # 1 / s would carry the LU's rounding; projecting W itself gives S to eps * sigma_1.
    P, S, Qt = torch.linalg.svd(U.T @ W @ V)
    sigma_1 = estimate_norm(operator(W), seed=seed)
    return Solution(U @ P, S, Qt @ V.T, sigma_1=sigma_1, iterations=blocks)


def reduced_inverse(W: Tensor, rank: int, *, seed: int, tol: float) -> Solution:
    """The `rank` smallest singular triplets of a rectangular W, from its triangular QR factor.

    Slower than the Gram matrix (1024 x 4096: 0.67 against 0.38 s) but exact where that squares a
    large condition number away.

    Args:
        W: (m, n) float64, entries of order 1.
        rank: 1 <= rank <= min(m, n).
        seed: see `inverse`.
        tol: see `inverse`.

    Returns:
        As `inverse`.

    Raises:
        SingularWeightError: W has dependent rows (if wide) or columns (if tall).
        torch.linalg.LinAlgError: the inverse overflows.
    """
    wide = W.shape[0] < W.shape[1]
    Q, R = torch.linalg.qr(W.T if wide else W)
    found = inverse(R, rank, seed=seed, tol=tol)
    long, short = Q @ found.U, found.Vt.T
    U, V = (short, long) if wide else (long, short)
    return found._replace(U=U, Vt=V.T)


def _explicit(W: Tensor, rank: int) -> tuple[Tensor, Tensor, int]:
    """U and V (n, r) from the inverse matrix and its Gram matrix."""
    C, info = torch.linalg.inv_ex(W)
    _require_regular(int(info), W)
    C = C.T / C.abs().max()
    solution = gram(C, rank, "principal")
    return solution.U, solution.Vt.T, 0


def _iterated(W: Tensor, rank: int, seed: int, tol: float) -> tuple[Tensor, Tensor, int]:
    """U and V (n, r) by block Krylov, one LU and two triangular solves a block."""
    # LAPACK wants columns: W.T of a row-major W is that already, W would be transposed in a copy.
    LU, pivots, info = torch.linalg.lu_factor_ex(W.T)
    _require_regular(int(info), W)
    op = Operator(
        lambda X: torch.linalg.lu_solve(LU, pivots, X),
        lambda Y: torch.linalg.lu_solve(LU, pivots, Y, adjoint=True),
        (W.shape[0], W.shape[1]),
        W.device,
    )
    ritz = block_krylov(op, rank, seed=seed, tol=tol)
    return ritz.U, ritz.V, ritz.blocks


def _require_regular(info: int, W: Tensor) -> None:
    if info != 0:
        raise SingularWeightError(f"LU pivot {info} of {W.shape[0]} is zero")
