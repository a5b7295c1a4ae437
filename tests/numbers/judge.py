"""What must hold of triplets, by LAPACK's QR iteration in float64, and what does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from ailora.linalg import Part, Triplets

EPS = float(np.finfo(np.float64).eps)
TINY = 2.0**-1074  # half of this is lost where a singular value is denormal
CONSTANT = 10.0  # c = 10 sqrt(max(m, n)): a full SVD's error may be c eps sigma_1
FLOAT32_PART = 1e-5  # what may be added where the arithmetic was float32's (tol >= 2e-5)
SQUARED = 1e-7  # of sigma_1, to which the neighbour's square is known from a Gram matrix
ANGLE = 10.0  # times residual / gap, which is what `Check.gap` says of the subspaces


@dataclass(frozen=True)
class Truth:
    """A matrix times 2^-exponent, and its SVD: P (m, k), s (k,) descending, Qt (k, n)."""

    W: np.ndarray
    exponent: int
    P: np.ndarray
    s: np.ndarray
    Qt: np.ndarray

    @classmethod
    def of(cls, weight: Tensor) -> Truth:
        """By gesvd, which is not among the routines that the library calls."""
        W = weight.detach().to(torch.float64).numpy()
        exponent = int(np.frexp(np.abs(W).max())[1])
        half = exponent // 2  # 2^-1074 times 2^1073 is out of reach in one step
        W = np.ldexp(np.ldexp(W, -half), half - exponent)
        P, s, Qt = scipy.linalg.svd(W, full_matrices=False, lapack_driver="gesvd")
        return cls(W, exponent, P, s, Qt)

    @property
    def rounding(self) -> float:
        """The bound c eps relative to sigma_1, and what denormal numbers cannot hold."""
        lost = math.ldexp(TINY, -self.exponent) / self.s[0] if self.s[0] else 0.0
        return CONSTANT * math.sqrt(max(self.W.shape)) * EPS + lost


def faults(truth: Truth, found: Triplets, rank: int, part: Part, tol: float) -> Iterator[str]:
    """What is not right, or not as the check says, in a few words each."""
    U, Vt = found.U.numpy(), found.Vt.numpy()
    m, n = truth.W.shape
    if (U.shape, found.S.shape, Vt.shape) != ((m, rank), (rank,), (rank, n)):
        yield "another shape"
        return
    if {found.U.dtype, found.S.dtype, found.Vt.dtype} != {torch.float64} or found.part != part:
        yield "another dtype or part"
    if not all(bool(x.isfinite().all()) for x in (found.U, found.S, found.Vt)):
        yield "not finite"
        return
    S = np.ldexp(np.ldexp(found.S.numpy(), -(half := truth.exponent // 2)), half - truth.exponent)
    if (np.diff(S) > 0).any() or (S < 0).any():
        yield "S not descending or negative"
    largest = U[np.abs(U).argmax(0), np.arange(rank)]
    if (largest < 0).any():
        yield "signs not as promised"
    yield from _errors(truth, U, S, Vt, found, tol)
    yield from _said_of_the_gap(truth, U, Vt, found)
    yield from _said_of_dead_ones(truth, S, found, tol)


def _single(found: Triplets, tol: float) -> bool:
    return found.check.method == "krylov" and tol >= 2e-5


def _bound(truth: Truth, found: Triplets, tol: float) -> float:
    """The promise: of a full SVD c eps, else `tol` where that is more."""
    return truth.rounding if found.check.method == "dense" else max(tol, truth.rounding)


def _errors(
    truth: Truth, U: np.ndarray, S: np.ndarray, Vt: np.ndarray, found: Triplets, tol: float
) -> Iterator[str]:
    scale, eye, check = truth.s[0] or 1.0, np.eye(len(S)), found.check
    right = np.linalg.norm(truth.W @ Vt.T - U * S, axis=0).max() / scale
    left = np.linalg.norm(truth.W.T @ U - Vt.T * S, axis=0).max() / scale
    orthonormal = max(np.abs(U.T @ U - eye).max(), np.abs(Vt @ Vt.T - eye).max())
    error, bound = max(right, left, orthonormal), _bound(truth, found, tol)
    if not error <= bound:
        yield f"backward error {error:.0e} beyond {bound:.0e}"
    kept = truth.s[_kept(truth, len(S), found.part)]
    if not np.abs(S - kept).max() <= bound * scale:
        yield f"singular values off by {np.abs(S - kept).max() / scale:.0e}, beyond {bound:.0e}"
    slack = truth.rounding + (FLOAT32_PART if _single(found, tol) else 0.0)
    if not error <= 1.01 * check.residual + slack:
        yield f"residual {check.residual:.0e} said, is {error:.0e}"
    bounded = check.method == "inverse" or _single(found, tol)
    if not bounded and not check.residual <= 1.01 * error + slack:
        yield f"residual {check.residual:.0e} said, is only {error:.0e}"
    if check.residual > max(tol, truth.rounding) and check.method != "dense":
        yield f"residual {check.residual:.0e} above tol, by {check.method}"


def _kept(truth: Truth, rank: int, part: Part) -> slice:
    return slice(0, rank) if part == "principal" else slice(len(truth.s) - rank, None)


def _said_of_the_gap(truth: Truth, U: np.ndarray, Vt: np.ndarray, found: Triplets) -> Iterator[str]:
    rank, k, said, part = found.rank, len(truth.s), found.check.gap, found.part
    if rank == k or not truth.s[0]:
        if said is not None:
            yield f"a gap of {said:.0e} said of nothing left out"
        return
    if said is None:
        return
    edge = (rank - 1, rank) if part == "principal" else (k - rank, k - rank - 1)
    s = truth.s / truth.s[0]
    gap = abs(s[edge[0]] - s[edge[1]])
    error = max(found.check.residual, truth.rounding)
    exact = found.check.method == "dense"
    blurred = 2 * error + (0.0 if exact else SQUARED)
    if found.check.method in ("krylov", "inverse"):
        blurred += 0.5 * gap + 0.3 * found.check.residual**0.5
    if not abs(said - gap) <= blurred:
        yield f"gap {said:.0e} said, is {gap:.0e}"
    kept = _kept(truth, rank, part)
    # Of a tall or wide weight the longer side has more directions of no value at all.
    beside_zero = s[-1] if part == "minor" else math.inf
    m, n = truth.W.shape
    for side, X, Y, longer in (
        ("left", U, truth.P[:, kept], m > n),
        ("right", Vt.T, truth.Qt[kept].T, n > m),
    ):
        width = min(said - blurred, beside_zero if longer else math.inf)
        angle = float(np.linalg.norm(X - Y @ (Y.T @ X), 2))
        if width > 0 and angle > ANGLE * math.sqrt(rank) * error / width + error:
            yield f"{side} subspace off by {angle:.0e} at residual {error:.0e}, gap {width:.0e}"


def _said_of_dead_ones(truth: Truth, S: np.ndarray, found: Triplets, tol: float) -> Iterator[str]:
    """Exact zeros are dead; what is well above the dtype's rounding is not."""
    kept = truth.s[_kept(truth, len(S), found.part)]
    noise = 1e-6 if _single(found, tol) else max(truth.W.shape) * EPS
    zero = int((kept <= EPS * truth.s[0]).sum()) if found.check.residual <= noise else 0
    alive = int((kept > max(1e-4, truth.rounding) * truth.s[0]).sum())
    if not zero <= found.dead <= len(S) - alive:
        yield f"{found.dead} dead, of {zero} zeros and {alive} well above rounding"
