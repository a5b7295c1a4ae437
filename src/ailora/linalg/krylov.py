"""Block Krylov: the largest singular triplets of a map, and with them W's principal part.

Block Krylov finds the largest singular triplets of a linear map C from products of C and C^T with
blocks: Musco and Musco, "Randomized block Krylov methods for stronger and faster approximate
singular value decomposition", NeurIPS 2015; as block Lanczos (Golub and Underwood, 1977) on C^T C
with full reorthogonalisation and the residual as the stopping rule. That squares C's condition, and
there are no restarts, but what is found is a start for `refine`, or wanted to few digits only.
Subspace iteration as in ``torch.svd_lowrank`` keeps the last power only and is off by several per
cent on flat spectra.

Blocks are rows throughout, (b, n): appending to a basis is then a copy, and the products are those
that CPU BLAS is quick at (``Y.T @ W`` with a narrow Y takes 2 to 10 times less than ``W.T @ Y``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ailora.linalg.eigen import eigh_end
from ailora.linalg.refine import Normal, Operator, operator, orthonormalise, refine
from ailora.linalg.triplets import Solution, StalledError, residuals

# Residual relative to sigma_1. Rounding leaves 1e-6 of 4096 x 4096, Gaussian, whether 5e-7 is asked
# for or 3e-6.
_FLOAT32_REACHES = 3e-6
_BLURRED = 1e-3  # of sigma_1: a smaller sigma's square is lost in float32
_TOO_FAR = 1e-4  # residual that `refine` would take longer to mend than the Gram matrix
_KEPT_SHARE, _KEPT_COLUMNS = 16, 36  # Ritz vectors handed from fp32 to fp64: 2 (r + r / 16), or 36
# Columns of a basis: n / 3, of which `refine` wants few digits more, n / 2 where none follow.
_BASIS_SHARE, _ROUGH_SHARE, _BASIS_COLUMNS, _BASIS_BLOCKS = 3, 2, 512, 8

_FIRST_CHECK = 4  # blocks before the first Rayleigh-Ritz step, where many digits are wanted
_MANY_DIGITS = 1e-4
# From here on two blocks are as many as are worth judging, and the start need not be a good one.
ANY, _HARDLY_ANY = 0.3, 0.5
_NORM_ROWS, _NORM_BLOCKS = 8, 3
# Residual of C^T C relative to s_1^2 below which rounding decides.
_FLOOR = {torch.float32: 3e-7, torch.float64: 1e-13}
# Size of a panel of W: both products with it run while it is in the processor's cache.
# 4096 x 4096 in fp32, blocks of 12: 4.9 ms, one product after the other 9.0; blocks of 36 and more
# gain and lose nothing.
_PANEL_BYTES = 2**19
# Milliseconds of a product with 2048 x 2048 in fp32, one thread: 8 columns 1.4, 16 2.2, 32 3.6, 64
# 6.0, 128 10.7. A narrow block is less work for a power of W^T W, but never has fewer columns than
# are wanted: of equal singular values a block finds as many as it has columns, and no residual says
# that there are more.
_NARROWEST = 16


def principal(W: Tensor, rank: int, *, low: Tensor, seed: int, tol: float) -> Solution:
    """The `rank` largest singular triplets of W, the last digits in fp64.

    fp32 halves the time of a product, and most blocks are in it.

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
    keep = max(2 * (rank + rank // _KEPT_SHARE), _KEPT_COLUMNS)
    ritz = next(_search(low, rank, seed, keep, max(tol, _FLOAT32_REACHES), _BASIS_SHARE))
    if not ritz.converged and ritz.error > _TOO_FAR:
        raise StalledError(f"residual {ritz.error:.1e} after {ritz.blocks} blocks")
    found = refine(
        operator(tall),
        ritz.V.double(),
        rank,
        "principal",
        tol=tol,
        sigma_1=float(ritz.S[0]),
        normal=normal_map(low),
    )
    U, V = (found.V, found.U) if wide else (found.U, found.V)
    blocks = ritz.blocks + found.steps
    return Solution(U.T, found.S, V, float(found.S[0]), blocks, found.following)


def rough(low: Tensor, rank: int, *, seed: int, tol: float) -> Solution:
    """The `rank` largest singular triplets of W to few digits, everything in fp32.

    Args:
        low: W (m, n), float32, entries of order 1.
        rank: 1 <= rank <= min(m, n).
        seed: seed of the random start block.
        tol: residual relative to sigma_1, 2e-5 or more.

    Returns:
        The triplets, in float64, with the residual that they were found to have.

    Raises:
        StalledError: the spectrum is too flat for the basis.
    """
    wide = low.shape[0] < low.shape[1]
    tall = low.T if wide else low
    error, blocks = math.inf, 0
    for ritz in _search(tall, rank, seed, rank + 1, tol, _ROUGH_SHARE):
        error, blocks = ritz.error, ritz.blocks
        if not ritz.converged:
            break
        found = _half_a_step_on(tall, ritz, rank, tol)
        if found.residual is not None and found.residual <= tol:
            return found._replace(U=found.Vt.T, Vt=found.U.T) if wide else found
    raise StalledError(f"residual {error:.1e} after {blocks} blocks")


def _half_a_step_on(W: Tensor, ritz: Ritz, rank: int, tol: float) -> Solution:
    """Triplets from ``Z = W^T U``, the product that a residual takes anyway.

    With W V = U S, R = Z - V S and the SVD Z = V' S' Y^T, the new pair is V' and U' = U Y, and
    ``W^T U' = V' S'``. Then ``W V' - U' S' = (1 - U U^T) W R Y / S'``, no longer than
    ``sigma_1 |R Y| / S'``: a check for which W need not be multiplied once more, unless it says too
    little.
    """
    V, image = ritz.V[:rank], ritz.image[:rank]
    U, triangle = torch.linalg.qr(image.T)  # orthogonal columns, but for rounding
    diagonal = triangle.diagonal()
    U, S = U * torch.where(diagonal < 0, -1.0, 1.0).to(U), diagonal.abs()
    Z = U.T @ W
    Q, triangle = torch.linalg.qr(Z.T)
    X, S_new, Yt = torch.linalg.svd(triangle.double())
    X, Yt = X.to(Q), Yt.to(Q)
    U_new, V_new = U @ Yt.T, (Q @ X).T
    R = torch.linalg.vector_norm(Yt @ (Z - S[:, None] * V), dim=1)
    error = float((R / S_new.clamp(min=torch.finfo(R.dtype).tiny)).max())
    if not error <= tol:
        error = float(residuals(W, U_new, S_new.to(Q), V_new, S_new[0].to(Q)))
    following = float(ritz.S[rank]) if ritz.S.shape[0] > rank else None
    if max(following or 0.0, float(S_new[-1])) <= _BLURRED * float(S_new[0]):
        following = None  # roots of float32's rounding
    return Solution(
        U_new.double(), S_new, V_new.double(), float(S_new[0]), ritz.blocks, following, error
    )


def _search(low: Tensor, rank: int, seed: int, keep: int, tol: float, share: int) -> Iterator[Ritz]:
    n = low.shape[1]
    width = min(n, max(_NARROWEST, rank))
    basis = min(n, max(n // share, _BASIS_COLUMNS, _BASIS_BLOCKS * width))
    start = start_block(width, low, seed=seed)
    if tol < _HARDLY_ANY:  # half a power more for half the work of a block
        start = start_block(width, low.T, seed=seed) @ low
    return search(operator(low), start, rank, keep=keep, tol=tol, basis=basis)


class Ritz(NamedTuple):
    """Approximate triplets from the largest: S (k,) float64, V (k, n) and its image C V (k, m).

    `error` is the largest residual ``||C^T u - s v||`` of those wanted, relative to S[0];
    `converged` whether that is what was asked for; `blocks` what was spent; `basis` (K, n) what the
    triplets were found in.
    """

    S: Tensor
    V: Tensor
    image: Tensor
    error: float
    converged: bool
    blocks: int
    basis: Tensor


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


def start_block(width: int, like: Tensor, *, seed: int) -> Tensor:
    """Random rows (width, n) in the dtype and on the device of W (m, n)."""
    # Drawn on the CPU: the same start on every device.
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, like.shape[1], generator=generator).to(like)


def search(
    op: Operator,
    start: Tensor,
    rank: int,
    *,
    keep: int,
    tol: float,
    basis: int,
    useless: float = _TOO_FAR,
) -> Iterator[Ritz]:
    """Triplets of C from its largest, the first `rank` of them to `tol`, then to more.

    Those given have ``||C^T u - s v|| <= tol * s_r`` for the first r = `rank` (u = C v / s), or
    what the arithmetic can do. The last ones may miss it: there is no room for another block, or,
    half-way, that is foreseeable. The block after the last that was judged is in what is given.

    Args:
        op: C, in the arithmetic of `start`.
        start: (b, n) float32 or float64.
        rank: number of triplets that must be good.
        keep: number of triplets to return, >= rank.
        tol: see above; from 0.3 on the first triplets count as good, whatever they are.
        basis: columns of the largest basis, >= rank.
        useless: residual relative to s_1 that is foreseen when nothing comes of it.

    Yields:
        `keep` approximate triplets, fewer if the basis has fewer.
    """
    limit = min(basis, start.shape[1])
    space = _Space(op, start, limit)
    due = _FIRST_CHECK if tol < _MANY_DIGITS else 1
    while True:
        space.extend()
        if space.full or (space.blocks >= due and space.size >= rank):
            found = _Judged(math.inf, True) if tol >= ANY else space.restricted(rank, tol)
            late = limit < 2 * space.size and limit < start.shape[1]
            last = space.full or (late and _foreseen(found.error, space) > max(tol, useless))
            if found.converged or last:
                yield space.ritz(found, keep)
            if last:
                return
            due = _next_check(space.blocks, found.error, max(tol, _FLOOR[start.dtype]))


def estimate_norm(W: Tensor, *, seed: int) -> float:
    """Largest singular value of W from a few products: some per cent too low at most."""
    width = min(_NORM_ROWS, W.shape[1])
    start = start_block(width, W, seed=seed)
    basis = min(_NORM_BLOCKS * width, W.shape[1])
    return float(next(search(operator(W), start, 1, keep=1, tol=0.0, basis=basis)).S[0])


def _next_check(blocks: int, error: float, tol: float) -> int:
    """Rayleigh-Ritz costs more as the basis grows: aim at two thirds of the expected distance."""
    rate = math.log(1 / error) / blocks if error < 1 else 0.0
    remaining = math.log(max(error / tol, 1)) / rate if rate > 0 else blocks
    return blocks + max(1, min(int(remaining * 2 / 3), blocks // 2))


def _foreseen(error: float, space: _Space) -> float:
    """The residual with the whole basis, by the rate until now."""
    return float(error ** (space.limit / space.size))


class _Judged(NamedTuple):
    """How good the triplets of C restricted to a basis are."""

    error: float
    converged: bool


class _Space:
    """A Krylov basis Q (k, n), its image P = Q C^T (k, m), and T = P P^T (k, k).

    C^T C restricted to Q is T.
    """

    def __init__(self, op: Operator, start: Tensor, limit: int) -> None:
        self._op = op
        self._new = orthonormalise(start, start[:0])  # the newest block
        self._taken = False  # whether it is in the basis
        self._Q = start.new_empty(limit, start.shape[1])
        self._P = start.new_empty(limit, op.shape[0])
        self._T = start.new_empty(limit, limit)
        self._coupling = start[:0]
        self.limit = limit
        self.size = 0
        self.blocks = 0

    @property
    def full(self) -> bool:
        """Whether there is no room for another block."""
        more = 0 if self._taken else self._new.shape[0]
        return self._new.shape[0] == 0 or self.size + more > self.limit

    def extend(self) -> None:
        """Take the newest block into the basis, and find the next."""
        self._take()
        Q, newest = self._Q[: self.size], slice(self.size - self._new.shape[0], self.size)
        outside = self._op.adjoint(self._P[newest]) - self._T[newest, : self.size] @ Q
        self._new = orthonormalise(outside[: self._Q.shape[1] - self.size], Q)
        self._taken = False
        self._coupling = self._new @ outside.T
        self.blocks += 1

    def _take(self) -> None:
        if self._taken:
            return
        old, self.size = self.size, self.size + self._new.shape[0]
        new, size = slice(old, self.size), self.size
        self._Q[new], self._P[new] = self._new, self._op.forward(self._new)
        inside = self._P[new] @ self._P[:size].T
        self._T[new, :size], self._T[:size, new] = inside, inside.T
        self._taken = True

    def restricted(self, rank: int, tol: float) -> _Judged:
        """Judge the `rank` largest triplets of C restricted to Q.

        C^T C maps Q into itself but for the newest block, whose image leaves by the coupling: this
        is the residual, s times that of C.
        """
        values, X = self._eigen(rank)
        kept = values.clamp(min=0).sqrt()
        newest = X[self.size - self._coupling.shape[1] :]
        outside = torch.linalg.vector_norm(self._coupling.double() @ newest, dim=0)
        first = float(kept[0])
        target = (tol * kept[-1] * kept).clamp(min=_FLOOR[self._T.dtype] * first**2)
        error = float((outside / kept.clamp(min=torch.finfo(kept.dtype).tiny)).max())
        return _Judged(error / (first or 1.0), bool((outside <= target).all()))

    def ritz(self, judged: _Judged, keep: int) -> Ritz:
        """The `keep` largest triplets; the block that was found last counts too, if it fits."""
        if not self.full:
            self._take()
        values, X = self._eigen(keep)
        X, Q = X.T.to(self._Q), self._Q[: self.size]
        S, image = values.clamp(min=0).sqrt(), X @ self._P[: self.size]
        return Ritz(S, X @ Q, image, judged.error, judged.converged, self.blocks, Q)

    def _eigen(self, count: int) -> tuple[Tensor, Tensor]:
        """The largest eigenvalues and their eigenvectors (size, count) of T."""
        T = self._T[: self.size, : self.size].double()
        values, X, _ = eigh_end(T, min(count, self.size), "principal")
        return values, X
