"""Singular triplets and low-rank changes: the types, the sign convention, and how good they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ailora.errors import UserError

Part = Literal["principal", "minor"]
Method = Literal["krylov", "inverse", "gram", "dense"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """How a decomposition was found and how good it is.

    Attributes:
        method: "krylov" (block Krylov on W), "inverse" (from the inverse), "gram"
            (eigenvectors of the smaller Gram matrix) or "dense" (full SVD).
        residual: the largest of ``||W v - sigma u||`` and ``||W^T u - sigma v||`` over all
            triplets, divided by sigma_1, and of the deviation of U and V from orthonormality. For
            "inverse" sigma_1 is an estimate from below, which only makes the figure larger. At tol
            >= 2e-5 that of a "krylov" result may be a bound of it, up to twice as large on flat
            spectra and more on others.
        iterations: blocks applied; 0 for the direct methods.
        seconds: wall-clock time of the whole decomposition, a discarded attempt included.
        fallback: why the method chosen first was replaced by another, or None.
        gap: distance of the kept singular values to the nearest one left out, relative to sigma_1;
            None if all are kept, or if it is not known. The kept subspaces are right to about
            residual / gap (Davis and Kahan); at no gap any choice is as good. The neighbour is
            known less well than the triplets asked for: by "gram" to 1e-7, by an iterative method
            roughly.
    """

    method: Method
    residual: float
    iterations: int
    seconds: float
    fallback: str | None = None
    gap: float | None = None


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """r singular triplets of a weight W (m x n): its principal or its minor part.

    Attributes:
        U: (m, r) float64, orthonormal columns; the entry of largest magnitude in each is positive.
        S: (r,) float64, descending.
        Vt: (r, n) float64, orthonormal rows.
        part: "principal" (the r largest) or "minor" (the r smallest of the min(m, n)).
        check: method, residual, iterations, seconds.
        dead_below: triplets whose sigma is at or below this value carry no signal, see `dead`.
    """

    U: Tensor
    S: Tensor
    Vt: Tensor
    part: Part
    check: Check
    dead_below: float = 0.0

    @property
    def rank(self) -> int:
        """Number of triplets, r."""
        return self.S.shape[0]

    @property
    def dead(self) -> int:
        """Number of triplets whose sigma is no more than rounding noise.

        Factors built from such a triplet, B = U S^1/2 and A = S^1/2 V^T, are zero but for noise, so
        no gradient reaches them.
        """
        return int(self.S.le(self.dead_below).sum())


def outermost(whole: Triplets, rank: int) -> Triplets:
    """The outermost `rank` triplets: largest first, so a minor part's are the last."""
    if rank == whole.rank:
        return whole
    outer = slice(None, rank) if whole.part == "principal" else slice(whole.rank - rank, None)
    return replace(
        whole,
        U=whole.U[:, outer].contiguous(),
        S=whole.S[outer].clone(),
        Vt=whole.Vt[outer].clone(),
        check=replace(whole.check, gap=_gap_of_outermost(whole, rank)),
    )


def _gap_of_outermost(whole: Triplets, rank: int) -> float | None:
    """`Check.gap` of these; sigma_1, which it is relative to, is only among a principal part."""
    if whole.part == "minor" or not whole.S[0] > 0:
        return None
    return float((whole.S[rank - 1] - whole.S[rank]) / whole.S[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """dW = scale B A, never built.

    Attributes:
        A: (k, n), as stored.
        B: (m, k), as stored.
        scale: The factor s.
    """

    A: Tensor = field(repr=False)
    B: Tensor = field(repr=False)
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Upper bound k of the rank of dW."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (m, n) of dW."""
        return self.B.shape[0], self.A.shape[1]

    def exact(self) -> tuple[Tensor, Tensor]:
        """A and s B, fp64."""
        return self.A.double(), self.B.double() * self.scale

    def matrix(self) -> Tensor:
        """The product dW itself (m, n), fp64."""
        A, B = self.exact()
        return B @ A

    def norm(self) -> Tensor:
        """||dW||_F by two thin QRs: Gram matrices square the error."""
        A, B = self.exact()
        norm: Tensor = torch.linalg.norm(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
        return norm


class StalledError(ArithmeticError):
    """An iterative method has become slower than another one would be."""


class Solution(NamedTuple):
    """What a solver returns: U (m, r), S (r,) descending, Vt (r, n), all float64.

    `sigma_1` is W's largest singular value, or an estimate; `following` the singular value next to
    the kept ones, None where all are kept or it is not known; `residual` theirs, where the solver
    has computed it.
    """

    U: Tensor
    S: Tensor
    Vt: Tensor
    sigma_1: float
    iterations: int = 0
    following: float | None = None
    residual: float | None = None


def fix_signs(U: Tensor, Vt: Tensor) -> tuple[Tensor, Tensor]:
    """Flip pairs (u, v) so that the largest-magnitude entry of each u is positive.

    The convention of scikit-learn's ``svd_flip(u_based_decision=True)``.

    Args:
        U: (..., m, r).
        Vt: (..., r, n).

    Returns:
        The same pairs, new tensors.
    """
    largest = U.gather(-2, U.abs().argmax(dim=-2, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(U)
    return U * signs, Vt * signs.mT


def residual(W: Tensor, U: Tensor, S: Tensor, Vt: Tensor, sigma_1: float) -> float:
    """Largest error of the triplets as singular triplets of W, see `Check.residual`.

    A triplet counted twice has no residual of its own, so orthonormality is measured as well.

    Args:
        W: (m, n) float64.
        U: (m, r) float64.
        S: (r,) float64.
        Vt: (r, n) float64.
        sigma_1: largest singular value of W, or a lower bound of it; 0 for W = 0.

    Returns:
        A non-negative float; NaN if any entry is NaN.
    """
    return float(residuals(W, U, S, Vt, S.new_tensor(sigma_1)))


def residuals(
    W: Tensor, U: Tensor, S: Tensor, Vt: Tensor, sigma_1: Tensor, *, image: Tensor | None = None
) -> Tensor:
    """`residual` of each of a batch: (..., m, n), (..., m, r), (..., r), (..., r, n) and (...).

    `image` is Vt W^T (..., r, m), where it is known.
    """
    image = Vt @ W.mT if image is None else image
    right = torch.linalg.vector_norm(image - (U * S[..., None, :]).mT, dim=-1)
    left = torch.linalg.vector_norm(U.mT @ W - S[..., None] * Vt, dim=-1)
    scale = torch.where(sigma_1 > 0, sigma_1, 1.0)[..., None]
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    errors = (right / scale, left / scale, U.mT @ U - eye, Vt @ Vt.mT - eye)
    # amax keeps a NaN where Python's max may drop it.
    return torch.cat([e.flatten(S.ndim - 1).abs() for e in errors], dim=-1).amax(-1)


def rounding_noise(W: Tensor, sigma_1: float, dtype: torch.dtype) -> float:
    """Singular value below which a weight stored in `dtype` has only rounding noise.

    Two sources, the larger counts. The solver's own noise, ``max(m, n) * eps(float64) * sigma_1``,
    is NumPy's ``matrix_rank`` convention. Rounding W's entries to eps adds a random matrix of
    spectral norm about ``eps/4 * rms(W) * (sqrt(m) + sqrt(n))``: a rank-deficient fp32 weight has
    such singular values where exact arithmetic has zeros; the 4 is left as margin. 16-bit weights
    are held to float32's eps: rounding to 16 bits fills a null space with values around 1e-3
    sigma_1, which pass gradients as any other, and a full-rank weight's own smallest are no larger.

    Args:
        W: (m, n) float64.
        sigma_1: its largest singular value.
        dtype: what W was stored in.

    Returns:
        The threshold, in W's units.
    """
    return float(rounding_noises(W, W.new_tensor(sigma_1), dtype))


def rounding_noises(W: Tensor, sigma_1: Tensor, dtype: torch.dtype) -> Tensor:
    """`rounding_noise` of each of a batch: W (..., m, n), sigma_1 (...)."""
    m, n = W.shape[-2:]
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    stored = eps * torch.linalg.matrix_norm(W) * (1 / math.sqrt(m) + 1 / math.sqrt(n))
    return torch.maximum(max(m, n) * torch.finfo(torch.float64).eps * sigma_1, stored)


def subspace_distance(A: Tensor, B: Tensor) -> float:
    """``||P_A - P_B||_2``, the sine of the largest principal angle between two column spaces.

    Computed from what is left of B after projecting it off A, as Bjorck and Golub (1973) advise:
    the cosine, ``||A^T B||``, cannot tell an angle below 1e-8 from zero.

    Args:
        A: (n, r), columns independent, not necessarily orthonormal. For right singular vectors
            pass ``Vt.T``.
        B: (n, r), likewise.

    Returns:
        Between 0 (the same subspace) and 1 (some direction of one is orthogonal to the other).

    Raises:
        UserError: A and B are not both (n, r) with r <= n.
    """
    if A.ndim != 2 or A.shape != B.shape or A.shape[1] > A.shape[0]:
        raise UserError(
            f"subspace_distance: shapes {tuple(A.shape)} and {tuple(B.shape)} are not both (n, r) "
            "with r <= n; pass the vectors as columns"
        )
    if A.shape[1] == 0:
        return 0.0
    P, Q = (torch.linalg.qr(X.detach().to(torch.float64)).Q for X in (A, B))
    rest = Q - P @ (P.T @ Q)
    return min(1.0, float(torch.linalg.matrix_norm(rest, ord=2)))
