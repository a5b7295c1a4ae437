"""The public `decompose`: which method for which weight, the check, and the fallback."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ailora.linalg.dense import dense
from ailora.linalg.gram import gram, noise
from ailora.linalg.krylov import principal
from ailora.linalg.minor import SingularWeightError, inverse, reduced_inverse
from ailora.linalg.triplets import (
    Check,
    Method,
    Part,
    Solution,
    Triplets,
    fix_signs,
    residual,
    rounding_noise,
)
from ailora.linalg.validate import validate

logger = logging.getLogger(__name__)

# Measured on 2 cores, fp64, square, rank 8. Full SVD against Gram: n = 64: 0.8 and 0.5 ms, n = 384:
# 28 and 14 ms. Gram against block Krylov (sigma_i = 1/i to evenly spaced): n = 384: 14 against 10
# to 93 ms, n = 768: 84 against 16 to 185, n = 1024: 180 against 24 to 274; eigh grows with n^3.
_DENSE_UP_TO = 64
_GRAM_UP_TO = 1024
_KRYLOV_SHARE = 8  # the basis, some 8 blocks of r vectors, must stay below min(m, n)


class _Outcome(NamedTuple):
    solution: Solution
    method: Method
    residual: float
    fallback: str | None = None


@torch.no_grad()
def decompose(
    weight: Tensor, rank: int, part: Part, *, seed: int = 0, tol: float = 1e-8
) -> Triplets:
    """The r largest or r smallest singular triplets of a weight.

    The paper's equations 2-5 take these for W^Q (principal) and W^V (minor). All arithmetic is in
    float64, on the weight's device, or on the CPU where that has no float64 (MPS). The same call
    gives the same bits on one machine with one number of threads; the global random state is
    neither read nor moved, and `weight` is not changed.

    Where sigma_r and the next singular value are equal or close, the subspace itself is not unique
    and any choice that meets `tol` may come back.

    Args:
        weight: (m, n), float16, bfloat16, float32 or float64.
        rank: r, 1 <= r <= min(m, n).
        part: "principal", the r largest; "minor", the r smallest of the thin SVD's min(m, n).
        seed: of the iterative methods' start block.
        tol: target for ``||W v - sigma u||`` and ``||W^T u - sigma v||``, relative to sigma_1. The
            iterative methods stop later than that, at tol relative to the triplet furthest inside
            the spectrum, where float64 allows it. A method that misses the target is replaced by
            the full SVD, with a warning and a note in ``check.fallback``.

    Returns:
        U (m, r), S (r,) descending and Vt (r, n), float64, with the check they passed.

    Raises:
        UserError: naming the argument and its value: weight not a 2-D floating tensor, empty, on
            the meta device, or with NaN/Inf (their count); rank, part, seed or tol out of range.
    """
    validate(weight, rank, part, seed, tol)
    began = time.perf_counter()
    exact = weight.detach().to("cpu") if weight.device.type == "mps" else weight.detach()
    W, exponent = _scaled(exact.to(torch.float64))
    outcome = _solve(W, rank, part, seed, tol)
    U, Vt = fix_signs(outcome.solution.U, outcome.solution.Vt)
    scale = 2.0**exponent
    return Triplets(
        U=U.contiguous(),
        S=outcome.solution.S * scale,
        Vt=Vt.contiguous(),
        part=part,
        check=Check(
            method=outcome.method,
            residual=outcome.residual,
            iterations=outcome.solution.iterations,
            seconds=time.perf_counter() - began,
            fallback=outcome.fallback,
        ),
        dead_below=rounding_noise(W, outcome.solution.sigma_1, weight.dtype) * scale,
    )


def choose(shape: tuple[int, int], rank: int, part: Part) -> Method:
    """The method expected to be quickest, from the shape alone; figures above."""
    m, n = shape
    small = min(m, n)
    if small <= _DENSE_UP_TO:
        return "dense"
    if part == "minor":
        return "inverse" if m == n else "gram"
    return "gram" if small <= _GRAM_UP_TO or rank * _KRYLOV_SHARE > small else "krylov"


def _scaled(W: Tensor) -> tuple[Tensor, int]:
    """W with its largest entry in [1/2, 1), so that squares cannot overflow, and the exponent.

    A power of two, so that nothing is rounded.
    """
    low, high = torch.aminmax(W)
    exponent = int(torch.frexp(torch.maximum(-low, high)).exponent)
    exponent = max(-1000, min(1000, exponent))
    return W * 2.0**-exponent, exponent


def _solve(W: Tensor, rank: int, part: Part, seed: int, tol: float) -> _Outcome:
    """The chosen method if it meets `tol`, else the full SVD."""
    if not W.any():
        return _Outcome(_zero(W, rank), "dense", 0.0)
    method = choose((W.shape[0], W.shape[1]), rank, part)
    reason = None
    if method != "dense":
        try:
            solution, method = _run(method, W, rank, part, seed, tol)
            error = residual(W, solution.U, solution.S, solution.Vt, solution.sigma_1)
            if error <= tol:
                return _Outcome(solution, method, error)
            reason = f"{method}: residual {error:.1e} above tol {tol:.1e}"
        except (SingularWeightError, LinAlgError) as failure:
            reason = f"{method}: {failure}"
        logger.warning(
            "%s part of a %d x %d weight: %s; using the full SVD", part, *W.shape, reason
        )
    solution = dense(W, rank, part)
    error = residual(W, solution.U, solution.S, solution.Vt, solution.sigma_1)
    if not error <= tol:
        logger.warning(
            "full SVD of a %d x %d weight: residual %.1e, tol %.1e", *W.shape, error, tol
        )
    return _Outcome(solution, "dense", error, reason)


def _run(
    method: Method, W: Tensor, rank: int, part: Part, seed: int, tol: float
) -> tuple[Solution, Method]:
    """The method's triplets, and the method that gave them in the end."""
    if method == "krylov":
        return principal(W, rank, seed=seed, tol=tol), method
    if method == "inverse":
        return inverse(W, rank, seed=seed, tol=tol), method
    found = gram(W, rank, part)
    if part == "principal" or noise(found) <= tol:
        return found, method
    return reduced_inverse(W, rank, seed=seed, tol=tol), "inverse"


def _zero(W: Tensor, rank: int) -> Solution:
    """W = 0: any orthonormal vectors will do."""
    m, n = W.shape
    S = W.new_zeros(rank)
    return Solution(W.new_ones(m).diag()[:, :rank], S, W.new_ones(n).diag()[:rank], sigma_1=0.0)
