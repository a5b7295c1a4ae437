"""Principal part: block Krylov with Rayleigh-Ritz on the whole Krylov block.

Musco and Musco, "Randomized block Krylov methods for stronger and faster approximate singular value
decomposition", NeurIPS 2015; here with full reorthogonalisation, a thick restart (Wu and Simon,
2000) once the basis is full, and the residual as the stopping rule. Subspace iteration as in
``torch.svd_lowrank`` keeps the last power only and is off by several per cent on flat spectra.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ailora.linalg.triplets import Solution

_OVERSAMPLE = 8
_BASIS_BLOCKS, _BASIS_COLUMNS = 8, 256  # the basis is full, and a restart due, at the larger
_KEPT_BLOCKS = 4  # of Ritz vectors, at a restart
_FIRST_CHECK = 5  # blocks before the first Rayleigh-Ritz step
_MAX_BLOCKS = 400
_FLOOR = 1e-14  # residual relative to the largest Ritz value, about what fp64 reaches
_ORTHOGONAL = 1e-13


class Operator(NamedTuple):
    """A linear map C from R^n to R^m, applied to blocks of columns."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    shape: tuple[int, int]  # (m, n), m >= n
    device: torch.device


class Ritz(NamedTuple):
    """Approximate triplets: U (m, k), S (k,) descending, V (n, k), and the blocks spent."""

    U: Tensor
    S: Tensor
    V: Tensor
    blocks: int = 0


def operator(W: Tensor) -> Operator:
    """W (m, n) as a map.

    Written from the other side: CPU BLAS takes 2 to 10 times longer for ``W.T @ Y`` with a narrow Y
    than for the same product as ``(Y.T @ W).T``.
    """
    m, n = W.shape
    return Operator(lambda X: (X.T @ W.T).T, lambda Y: (Y.T @ W).T, (m, n), W.device)


def principal(W: Tensor, rank: int, *, seed: int, tol: float) -> Solution:
    """The `rank` largest singular triplets of W.

    Args:
        W: (m, n) float64.
        rank: 1 <= rank <= min(m, n).
        seed: of the start block.
        tol: see `block_krylov`.

    Returns:
        The triplets; their residual is the caller's to judge.
    """
    wide = W.shape[0] < W.shape[1]
    tall = W.T if wide else W  # the basis lives on the smaller side
    op = operator(tall)
    U, S, V, blocks = block_krylov(op, rank, seed=seed, tol=tol)
    if wide:
        U, V = V, U
    return Solution(U, S, V.T, sigma_1=float(S[0]), iterations=blocks)


def block_krylov(
    op: Operator, rank: int, *, seed: int, tol: float, max_blocks: int = _MAX_BLOCKS
) -> Ritz:
    """The `rank` largest singular triplets of a linear map C.

    Stops once ``||C^T u - s v|| <= tol * s_r`` for all r (C v = s u holds by construction), at
    fp64's floor, when a whole restart brought nothing, or after `max_blocks`. Being relative to the
    smallest s kept, the rule bounds the subspace error by about tol * s_r / gap.

    Args:
        op: the map, m >= n.
        rank: number of triplets r.
        seed: of the start block.
        tol: see above.
        max_blocks: upper limit on the blocks C is applied to.

    Returns:
        r approximate triplets. Nothing is raised when the residual stays above `tol`.
    """
    n = op.shape[1]
    width = min(rank + _OVERSAMPLE, n)
    limit = min(n, max(_BASIS_BLOCKS * width, _BASIS_COLUMNS))
    space, best, blocks, due = _Space(op, width, seed), float("inf"), 0, _FIRST_CHECK
    while True:
        space.apply()
        blocks += 1
        full = space.size >= limit
        if full or blocks >= min(due, max_blocks):
            ritz = space.ritz(rank, blocks)
            error = _error(op, ritz)
            target = max(tol * float(ritz.S[-1]), _FLOOR * float(ritz.S[0]))
            stalled = full and (space.size == n or not error < 0.5 * best)
            if error <= target or stalled or blocks >= max_blocks:
                return ritz
            best = error if full else best
            due = blocks + 2 + blocks // 8  # the Rayleigh-Ritz step costs more as the basis grows
        room = (n if full else limit) - space.size
        space.expand(min(width, room), keep=_KEPT_BLOCKS * width if full else None)


def estimate_norm(op: Operator, *, seed: int, blocks: int = 3) -> float:
    """Largest singular value of C from below, within some per cent, from a few products."""
    space = _Space(op, min(_OVERSAMPLE, op.shape[1] // blocks) or 1, seed)
    space.apply()
    for _ in range(min(blocks, op.shape[1]) - 1):
        space.expand(space.width, keep=None)
        space.apply()
    return float(space.ritz(1, 0).S[0])


class _Space:
    """A Krylov basis Q (n, k) and its image in factored form, C Q = P T (P: m x k, T: k x k)."""

    def __init__(self, op: Operator, width: int, seed: int) -> None:
        # Drawn on the CPU: the same start on every device.
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(op.shape[1], width, generator=generator, dtype=torch.float64).to(
            op.device
        )
        self._op = op
        self._new = torch.linalg.qr(start).Q  # the block of Q that C has not been applied to
        self._Q = start[:, :0]
        self._P = start.new_zeros(op.shape[0], 0)
        self._T = start[:0, :0]

    @property
    def width(self) -> int:
        """Columns of a block."""
        return int(self._new.shape[1])

    @property
    def size(self) -> int:
        """Columns of Q."""
        return self._Q.shape[1]

    def apply(self) -> None:
        """Apply C to the newest block."""
        image = self._op.forward(self._new)
        self._P = torch.cat([self._P, orthonormalise(image, self._P)], dim=1)
        self._Q = torch.cat([self._Q, self._new], dim=1)
        T = torch.nn.functional.pad(self._T, (0, 0, 0, self._new.shape[1]))
        self._T = torch.cat([T, self._P.T @ image], dim=1)

    def expand(self, width: int, *, keep: int | None) -> None:
        """Append the next block; with `keep`, shrink to so many Ritz vectors first (restart)."""
        newest = self._P[:, -self._new.shape[1] :]
        self._new = orthonormalise(self._op.adjoint(newest)[:, :width], self._Q)
        if keep is not None:
            ritz = self.ritz(keep, 0)
            self._P, self._Q, self._T = ritz.U, ritz.V, torch.diag(ritz.S)

    def ritz(self, count: int, blocks: int) -> Ritz:
        """The `count` largest triplets of C restricted to Q."""
        X, S, Yt = torch.linalg.svd(self._T)
        return Ritz(self._P @ X[:, :count], S[:count], self._Q @ Yt[:count].T, blocks)


def orthonormalise(block: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal columns from `block`, orthogonal to the orthonormal `basis`.

    Columns that depend on the others (a rank-deficient W) become arbitrary new directions. Two
    passes are enough for independent columns; dependent ones take a third.

    Args:
        block: (n, b) float64 with n >= b + k.
        basis: (n, k) float64; k may be 0.

    Returns:
        (n, b) float64.
    """
    new: Tensor = torch.linalg.qr(block).Q
    for _ in range(4 if basis.shape[1] else 0):
        overlap = basis.T @ new
        if float(overlap.abs().max()) <= _ORTHOGONAL:
            break
        new = torch.linalg.qr(new - basis @ overlap).Q
    return new


def _error(op: Operator, ritz: Ritz) -> float:
    """Largest ``||C^T u - s v||``."""
    return float(torch.linalg.vector_norm(op.adjoint(ritz.U) - ritz.V * ritz.S, dim=0).max())
