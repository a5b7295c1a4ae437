"""Last digits in fp64: triplets of W from approximate ones, by a block Davidson iteration.

Davidson (1975); the blocks that extend the basis are the residuals ``W^T u - sigma v`` of W itself,
computed in fp64, so however inexact the start and the preconditioner are, only the number of steps
suffers. Without a preconditioner this is block Krylov's space; with (W^T W)^-1, even one from an
fp32 LU, it is that of inverse iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ailora.linalg.triplets import Part

_MAX_STEPS = 40
_FLOOR = 5e-15  # residual relative to sigma_1, about what fp64 reaches
# Overlap with the basis that is as good as none.
_ORTHOGONAL = {torch.float32: 1e-6, torch.float64: 1e-13}
_PASSES = 6
_DEAD = 1e-10  # sigma relative to sigma_1 below which the image W v says little about u
# The basis holds the start, or twice the rank after a restart, and as much again; at small ranks
# more, as the SVD of T costs nothing there.
_BASIS_BLOCKS, _BASIS_COLUMNS = 2, 160
# Powers of W^T W on residuals, in float32: one, or two for few rows, where a product takes as long
# as reading W. 4096 x 4096, Gaussian, rank 8: none 0.57 s, one 0.56, two 0.52; 128, trained-like:
# 1.98, 1.46, 1.66.
_TWO_POWERS_UP_TO = 16
_SLOW, _PATIENCE = 0.75, 4  # give up after so many steps that left more than this share of it


class Operator(NamedTuple):
    """A linear map C from R^n to R^m, m >= n, applied to blocks of rows.

    `forward` takes X (b, n) to X C^T (b, m), `adjoint` Y (b, m) to Y C (b, n).
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    shape: tuple[int, int]

    def normal(self, X: Tensor) -> Tensor:
        """X C^T C (b, n)."""
        return self.adjoint(self.forward(X))


Normal = Callable[[Tensor], Tensor]  # X (b, n) to X C^T C (b, n)


class Refined(NamedTuple):
    """Triplets U (r, m), S (r,) descending, V (r, n), float64, and how they were got.

    `following` is the next sigma inwards, None if not known; `converged` whether `tol` was met.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    following: float | None
    steps: int
    converged: bool


def operator(W: Tensor) -> Operator:
    """W (m, n) as a map, m >= n."""
    return Operator(lambda X: X @ W.T, lambda Y: Y @ W, (W.shape[0], W.shape[1]))


def refine(
    op: Operator,
    V: Tensor,
    rank: int,
    part: Part,
    *,
    tol: float,
    sigma_1: float,
    normal: Normal | None = None,
    inverse: Callable[[], Operator] | None = None,
) -> Refined:
    """`rank` triplets from one end of W's spectrum.

    Stops once ``||W^T u - sigma v|| <= tol * sigma`` for the kept sigma furthest inside the
    spectrum (W v = sigma u holds by construction), at fp64's floor, or when it no longer falls.

    Args:
        op: W (m, n) in float64, m >= n.
        V: (k, n) float64, k >= rank: approximate right vectors, the wanted end first.
        rank: number of triplets r.
        part: which end of the spectrum.
        tol: see above.
        sigma_1: largest singular value of W, for the floor.
        normal: W^T W in float32, for more directions per step at little cost.
        inverse: gives C, some approximation of W^-T, for C^T C as the preconditioner; asked for
            only if a step has to be taken.

    Returns:
        The triplets. Nothing is raised when the residual stays above `tol`.
    """
    basis = _Basis(op, V)
    limit = V.shape[0] + max(_BASIS_BLOCKS * rank, _BASIS_COLUMNS)
    progress, C = _Progress(), None
    while True:
        turn = basis.turn(part)
        found = basis.triplets(turn, rank)
        R = op.adjoint(found.U) - found.S[:, None] * found.V
        size = torch.linalg.vector_norm(R, dim=1)
        target = max(tol * _scale(found.S, sigma_1), _FLOOR * sigma_1)
        room = op.shape[1] - basis.size
        if progress.over(found, float(size.max()), target) or not room:
            break
        if inverse and C is None:
            C = inverse()
            if float(found.S.min()) <= _DEAD * sigma_1:
                basis = _Basis(op, basis.triplets(turn, V.shape[0]).V, C, _DEAD * sigma_1)
                continue
        wanted = size > target
        R = R[wanted] / size[wanted, None]
        directions = _directions(R, normal, C)[:room]
        if basis.size + directions.shape[0] > limit:
            basis.keep(turn, V.shape[0])
        basis.extend(directions, C, _DEAD * sigma_1)
    U, S, V, following = progress.best
    if part == "minor":
        U, S, V = U.flip(0), S.flip(0), V.flip(0)
    return Refined(U, S, V, following, progress.steps, progress.error <= target)


def _directions(R: Tensor, normal: Normal | None, C: Operator | None) -> Tensor:
    """Directions that residuals R (b, n) say the basis lacks."""
    if C is not None:
        return C.normal(R)
    if normal is None:
        return R
    powers = [R]
    for _ in range(2 if R.shape[0] <= _TWO_POWERS_UP_TO else 1):
        image = normal(powers[-1].float()).double()
        powers.append(image / torch.linalg.vector_norm(image, dim=1, keepdim=True))
    return torch.cat(powers)


def _scale(S: Tensor, sigma_1: float) -> float:
    """Unit of the residuals: the kept sigma furthest inside, unless that is dead."""
    edge = float(S.max())
    return edge if edge > _DEAD * sigma_1 else sigma_1 / 10


class _Triplets(NamedTuple):
    U: Tensor  # (r, m)
    S: Tensor  # (r,)
    V: Tensor  # (r, n)
    following: float | None


class _Turn(NamedTuple):
    """The SVD of a basis's T (k, k), all of them with the wanted end first."""

    X: Tensor  # (k, k), columns
    S: Tensor  # (k,)
    Yt: Tensor  # (k, k), rows


class _Progress:
    """When to stop, and with which triplets."""

    best: _Triplets

    def __init__(self) -> None:
        self.steps = 0
        self.error = math.inf
        self._slow = 0

    def over(self, found: _Triplets, error: float, target: float) -> bool:
        """Take note of a residual: is it small enough, or no longer falling?"""
        self._slow = self._slow + 1 if error > _SLOW * self.error else 0
        if error < self.error or math.isnan(error):
            self.best, self.error = found, error
        if not error > target or self._slow >= _PATIENCE or self.steps >= _MAX_STEPS:
            return True
        self.steps += 1
        return False


class _Basis:
    """Orthonormal rows Q (k, n) and their image under W, Q W^T = T^T P (P: k x m, T: k x k)."""

    def __init__(
        self, op: Operator, V: Tensor, C: Operator | None = None, dead: float = 0.0
    ) -> None:
        self._op = op
        self._Q = V[:0]
        self._P = V.new_zeros(0, op.shape[0])
        self._T = V.new_zeros(0, 0)
        self.extend(V, C, dead)

    @property
    def size(self) -> int:
        """Number of rows of Q."""
        return self._Q.shape[0]

    def extend(self, block: Tensor, C: Operator | None = None, dead: float = 0.0) -> None:
        """More rows, made orthonormal to those there are.

        Where v's image is no larger than `dead`, it does not tell u; inverse iteration does.
        """
        new = orthonormalise(block, self._Q)
        image = self._op.forward(new)
        directions = image
        silent = torch.linalg.vector_norm(image, dim=1) <= dead
        if C and bool(silent.any()):
            directions = image.clone()
            directions[silent] = C.forward(C.normal(new[silent]))
        self._P = torch.cat([self._P, orthonormalise(directions, self._P)])
        self._Q = torch.cat([self._Q, new])
        T = torch.cat([self._T, self._T.new_zeros(new.shape[0], self._T.shape[1])])
        self._T = torch.cat([T, self._P @ image.T], dim=1)

    def turn(self, part: Part) -> _Turn:
        """The SVD of W restricted to Q, in the basis."""
        X, S, Yt = torch.linalg.svd(self._T)
        return _Turn(X, S, Yt) if part == "principal" else _Turn(X.flip(1), S.flip(0), Yt.flip(0))

    def triplets(self, turn: _Turn, count: int) -> _Triplets:
        """The first `count` triplets of W restricted to Q."""
        following = float(turn.S[count]) if turn.S.shape[0] > count else None
        U, V = turn.X[:, :count].T @ self._P, turn.Yt[:count] @ self._Q
        return _Triplets(U, turn.S[:count], V, following)

    def keep(self, turn: _Turn, count: int) -> None:
        """Shrink to the first `count` of the triplets."""
        self._P, S, self._Q, _ = self.triplets(turn, count)
        self._T = torch.diag(S)


def orthonormalise(block: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal rows from `block`, orthogonal to the orthonormal rows of `basis`.

    Rows that depend on the others (a rank-deficient W) become arbitrary new directions; they take
    more passes.

    Args:
        block: (b, n) float32 or float64.
        basis: (k, n) of the same dtype, b + k <= n; k may be 0.

    Returns:
        (b, n).
    """
    if not block.shape[0]:
        return block
    new = _rows_of_qr(block - (block @ basis.T) @ basis if basis.shape[0] else block)
    for _ in range(_PASSES if basis.shape[0] else 0):
        overlap = new @ basis.T
        if float(overlap.abs().max()) <= _ORTHOGONAL[block.dtype]:
            break
        rest = new - overlap @ basis
        lost = torch.linalg.vector_norm(rest, dim=1) <= 100 * torch.finfo(rest.dtype).eps
        if bool(lost.any()):  # QR's arbitrary direction may be one of the basis, each time anew
            rest[lost] = torch.randn(rest.shape, generator=_seeded()).to(rest)[lost]
        new = _rows_of_qr(rest)
    return new


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _rows_of_qr(block: Tensor) -> Tensor:
    rows: Tensor = torch.linalg.qr(block.T).Q.T
    return rows
