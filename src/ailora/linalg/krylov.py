"""Principal part: block Krylov on W in fp32, then the last digits in fp64.

Block Krylov finds the largest singular triplets of a linear map C from products of C^T C with
blocks: Musco and Musco, "Randomized block Krylov methods for stronger and faster approximate
singular value decomposition", NeurIPS 2015; as block Lanczos (Golub and Underwood, 1977) on C^T C
with full reorthogonalisation and the residual as the stopping rule. That squares C's condition, and
there are no restarts, but what is found is a start for `refine` only. Subspace iteration as in
``torch.svd_lowrank`` keeps the last power only and is off by several per cent on flat spectra.

Blocks are rows throughout, (b, n): appending to a basis is then a copy, and the products are those
that CPU BLAS is quick at (``Y.T @ W`` with a narrow Y takes 2 to 10 times less than ``W.T @ Y``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ailora.linalg.eigen import eigh_end
from ailora.linalg.refine import Normal, operator, orthonormalise, refine
from ailora.linalg.triplets import Solution, StalledError

# Residual relative to sigma_1. Rounding leaves 1e-6 of 4096 x 4096, Gaussian, whether 5e-7 is asked
# for (41 blocks) or 3e-6 (37).
_FLOAT32_REACHES = 3e-6
_TOO_FAR = 1e-4  # residual that `refine` would take longer to mend than the Gram matrix
_KEPT_BLOCKS, _KEPT_COLUMNS = 2, 36  # Ritz vectors handed from fp32 to fp64
_BASIS_SHARE, _BASIS_COLUMNS, _BASIS_BLOCKS = 3, 512, 8  # n / 3, but no less than the others

_FIRST_CHECK = 4  # blocks before the first Rayleigh-Ritz step
_HOPELESS = 1e-2  # residual with half of the basis used up
_NORM_ROWS, _NORM_BLOCKS = 8, 3
# Residual of C^T C relative to s_1^2 below which rounding decides.
_FLOOR = {torch.float32: 3e-7, torch.float64: 1e-13}
# Size of a panel of W: both products with it run while it is in the processor's cache.
# 4096 x 4096 in fp32, blocks of 12: 4.9 ms, one product after the other 9.0; blocks of 36 and more
# gain and lose nothing.
_PANEL_BYTES = 2**19


def principal(W: Tensor, rank: int, *, low: Tensor, seed: int, tol: float) -> Solution:
    """The `rank` largest singular triplets of W.

    fp32 halves the time of a product; of 41 blocks at 4096 x 4096, Gaussian, rank 8, 37 are in it.

    Args:
        W: (m, n) float64, entries of order 1.
        rank: 1 <= rank <= min(m, n).
        low: W in float32.
        seed: seed of the random start block.
        tol: see `refine`.

    Returns:
        The triplets; their residual is the caller's to judge.

    Raises:
        StalledError: the spectrum is too flat for the basis; the Gram matrix is quicker then.
    """
    wide = W.shape[0] < W.shape[1]
    tall, low = (W.T, low.T) if wide else (W, low)  # the basis lives on the smaller side
    n = tall.shape[1]
    width = block_width(rank, n)
    normal = normal_map(low)
    ritz = block_krylov(
        normal,
        start_block(width, low, seed=seed),
        rank,
        keep=max(_KEPT_BLOCKS * width, _KEPT_COLUMNS),
        tol=max(tol, _FLOAT32_REACHES),
        basis=min(n, max(n // _BASIS_SHARE, _BASIS_COLUMNS, _BASIS_BLOCKS * width)),
    )
    if not ritz.converged and ritz.error > _TOO_FAR:
        raise StalledError(f"residual {ritz.error:.1e} after {ritz.blocks} blocks of {width}")
    found = refine(
        operator(tall),
        ritz.V,
        rank,
        "principal",
        tol=tol,
        sigma_1=float(ritz.S[0]),
        normal=normal,
    )
    U, V = (found.V, found.U) if wide else (found.U, found.V)
    blocks = ritz.blocks + found.steps
    return Solution(U.T, found.S, V, float(found.S[0]), blocks, found.following)


class Ritz(NamedTuple):
    """Approximate triplets from the largest: S (k,) and V (k, n), float64.

    `error` is the largest residual ``||C^T u - s v||`` of those wanted, relative to S[0];
    `converged` whether that is what was asked for; `blocks` what was spent.
    """

    S: Tensor
    V: Tensor
    error: float
    converged: bool
    blocks: int


def normal_map(W: Tensor) -> Normal:
    """W^T W of W (m, n) for blocks of rows X (b, n), without forming it."""
    m, n = W.shape
    height = max(1, _PANEL_BYTES // (n * W.element_size())) if W.device.type == "cpu" else m
    panels = [W[row : row + height] for row in range(0, m, height)]

    def apply(X: Tensor) -> Tensor:
        image = torch.zeros_like(X)
        for panel in panels:
            image.addmm_(X @ panel.T, panel)
        return image

    return apply


def block_width(rank: int, n: int) -> int:
    """Columns of a block: some beyond the rank, which the last wanted triplet needs most.

    4096 x 4096, Gaussian, rank 8: 10 columns 0.33 s, 12 0.31, 16 0.39, 24 0.52.
    """
    return min(n, rank + max(4, rank // 16))


def start_block(width: int, like: Tensor, *, seed: int) -> Tensor:
    """Random rows (width, n) in the dtype and on the device of W (m, n)."""
    # Drawn on the CPU: the same start on every device.
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, like.shape[1], generator=generator, dtype=torch.float64).to(like)


def block_krylov(
    normal: Normal, start: Tensor, rank: int, *, keep: int, tol: float, basis: int
) -> Ritz:
    """Triplets of C from its largest, the first `rank` of them to `tol`.

    Stops once ``||C^T u - s v|| <= tol * s_r`` for the first r = `rank` (u = C v / s), at the floor
    of the arithmetic, when there is no room for another block, or, half-way, when that is
    foreseeable.

    Args:
        normal: C^T C, in the arithmetic of `start`.
        start: (b, n) float32 or float64, b >= rank.
        rank: number of triplets that must be good.
        keep: number of triplets to return, >= rank.
        tol: see above.
        basis: columns of the largest basis.

    Returns:
        `keep` approximate triplets, fewer if the basis has fewer. Nothing is raised when the
        residual stays above `tol`.
    """
    n = start.shape[1]
    space, due = _Space(normal, start, min(basis, n)), _FIRST_CHECK
    while True:
        space.extend()
        if space.blocks < due and not space.full:
            continue
        found = space.restricted(rank, keep, tol)
        late = n > basis < 2 * space.size and found.error > _HOPELESS
        if found.converged or space.full or late:
            V = space.lifted(found.X)
            return Ritz(found.S, V, found.error, found.converged, space.blocks)
        due = _next_check(space.blocks, found.error, max(tol, _FLOOR[start.dtype]))


def estimate_norm(W: Tensor, *, seed: int) -> float:
    """Largest singular value of W from a few products: some per cent too low at most."""
    width = min(_NORM_ROWS, W.shape[1])
    start = start_block(width, W, seed=seed)
    basis = min(_NORM_BLOCKS * width, W.shape[1])
    return float(block_krylov(normal_map(W), start, 1, keep=1, tol=0.0, basis=basis).S[0])


def _next_check(blocks: int, error: float, tol: float) -> int:
    """Rayleigh-Ritz costs more as the basis grows: aim at two thirds of the expected distance."""
    rate = math.log(1 / error) / blocks if error < 1 else 0.0
    remaining = math.log(error / tol) / rate if rate > 0 else blocks
    return blocks + max(1, min(int(remaining * 2 / 3), blocks // 2))


class _Found(NamedTuple):
    """Triplets of C restricted to a basis, in that basis: S (k,), X (size, k)."""

    S: Tensor
    X: Tensor
    error: float
    converged: bool


class _Space:
    """A Krylov basis Q (k, n) and C^T C restricted to it, T (k, k)."""

    def __init__(self, normal: Normal, start: Tensor, limit: int) -> None:
        self._normal = normal
        self._new = orthonormalise(start, start[:0])  # rows that C has not been applied to
        self._Q = start.new_empty(limit, start.shape[1])
        self._T = start.new_zeros(limit, limit)
        self._coupling = start[:0]
        self.size = 0
        self.blocks = 0

    @property
    def full(self) -> bool:
        """Whether there is no room for another block."""
        width = self._new.shape[0]
        return width == 0 or self.size + width > self._Q.shape[0]

    def extend(self) -> None:
        """Take the newest block into the basis, and find the next."""
        old, size = self.size, self.size + self._new.shape[0]
        image = self._normal(self._new)
        self._Q[old:size] = self._new
        inside = image @ self._Q[:size].T
        self._T[old:size, :size], self._T[:size, old:size] = inside, inside.T
        outside = (image - inside @ self._Q[:size])[: self._Q.shape[1] - size]
        self._new = orthonormalise(outside, self._Q[:size])
        self._coupling = self._new @ outside.T
        self.size, self.blocks = size, self.blocks + 1

    def restricted(self, rank: int, keep: int, tol: float) -> _Found:
        """The `keep` largest triplets of C restricted to Q, from T = X S^2 X^T.

        C^T C maps Q into itself but for the newest block, whose image leaves by the coupling: this
        is the residual, s times that of C.
        """
        T = self._T[: self.size, : self.size].double()
        values, X, _ = eigh_end(T, min(keep, self.size), "principal")
        S = values.clamp(min=0).sqrt()
        newest = X[self.size - self._coupling.shape[1] :, :rank]
        outside = torch.linalg.vector_norm(self._coupling.double() @ newest, dim=0)
        first, kept = float(S[0]), S[:rank]
        target = (tol * kept[-1] * kept).clamp(min=_FLOOR[self._T.dtype] * first**2)
        error = float((outside / kept.clamp(min=torch.finfo(S.dtype).tiny)).max())
        converged = bool((outside <= target).all())
        return _Found(S, X, error / (first or 1.0), converged)

    def lifted(self, X: Tensor) -> Tensor:
        """Rows (k, n) from columns X (size, k) in the basis."""
        return X.T @ self._Q[: self.size].double()
