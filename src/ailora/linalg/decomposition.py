"""The public `decompose`: what it accepts, which method it takes, the check, and the fallback."""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ailora.errors import UserError
from ailora.linalg.dense import accurate_enough, dense, jacobi
from ailora.linalg.gram import gram
from ailora.linalg.gram import rough as rough_gram
from ailora.linalg.inverse import inverse
from ailora.linalg.krylov import ANY, principal, rough
from ailora.linalg.triplets import (
    Check,
    Method,
    Part,
    Solution,
    StalledError,
    Triplets,
    fix_signs,
    residual,
    rounding_noise,
)

logger = logging.getLogger(__name__)

# A weight whose largest entry is beyond 2^16 is scaled: where it is nearly singular, (W^T W)^-1
# would overflow float32.
USUAL_EXPONENT = 16
# Times as a share of the fp32 SVD's, one thread, rank 8, Gaussian: n = 384: Gram 0.6, n = 768: 0.4,
# n = 1024: 0.36 (Krylov and inverse: 0.2 to 1, by the spectrum), n = 2048: Gram 0.4, Krylov 0.2,
# inverse 0.14. Rank 128 at n = 2048: Gram 0.45, the others 2 to 4.
_DENSE_UP_TO = 64
_GRAM_UP_TO = 1024
_KRYLOV_SHARE = 24  # the basis, of many blocks of r vectors, must stay well below min(m, n)
FLOAT32_IS_ENOUGH = 2e-5  # tol from which a principal part is found in float32 alone
# Below that size Gram matrices are as quick: 256 x 256, rank 8, 3.9 ms and 4.0. Beyond it, they are
# where a flat spectrum takes more than half of all columns: 384 x 384, rank 32, tol 1e-2, 11 ms and
# 19; 768 x 768, rank 128, tol 0.1, 71 and 170, but 71 and 27 at tol 0.5.
_BLOCKS_PER_DIGIT = 3.5
_ROUGH_GRAM_UP_TO = 256
# Of sigma_1: what float32 arithmetic does not tell from zero, ten times what storing W in it adds.
_FLOAT32_NOISE = 3e-6

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class _Problem:
    """A weight as it came, and as the methods want it: times 2^-exponent, in float64 or float32.

    A float64 copy takes as long as six products with 32 columns, so it waits until it is needed.
    """

    weight: Tensor
    exponent: int
    rank: int
    part: Part
    seed: int
    tol: float

    @cached_property
    def exact(self) -> Tensor:
        W = self.weight.to(torch.float64)
        return W * 2.0**-self.exponent if self.exponent else W

    @cached_property
    def low(self) -> Tensor:
        return self.exact.float() if self.exponent else self.weight.float()

    @property
    def rough(self) -> bool:
        """Whether float32 has all the digits that are asked for."""
        return self.part == "principal" and self.tol >= FLOAT32_IS_ENOUGH


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

    The paper's equations 2-5 take these for W^Q (principal) and W^V (minor). Everything is
    computed on the weight's device, or on the CPU where that has no float64 (MPS). The same call
    gives the same bits on one machine with one number of threads; the global random state is
    neither read nor moved, and `weight` is not changed.

    Where sigma_r and the next singular value are equal or close, the subspace itself is not unique
    and any choice that meets `tol` may come back.

    Args:
        weight: (m, n), float16, bfloat16, float32 or float64.
        rank: r, 1 <= r <= min(m, n).
        part: "principal", the r largest; "minor", the r smallest of the thin SVD's min(m, n).
        seed: seed of the iterative methods' random start block.
        tol: target for ``||W v - sigma u||`` and ``||W^T u - sigma v||``, relative to sigma_1. The
            iterative methods stop later than that, at tol relative to the triplet furthest inside
            the spectrum, where float64 allows it. A method that misses the target is replaced by
            the next, in the end by the full SVD, with a note in ``check.fallback``. The arithmetic
            is float64's, but for a principal part with tol >= 2e-5: float32's, where U and V are
            orthonormal to 1e-5, and the singular values usually better than tol squared.

    Returns:
        U (m, r), S (r,) descending and Vt (r, n), float64, with the check they passed.

    Raises:
        UserError: naming the argument and its value: weight not a 2-D floating tensor, empty, on
            the meta device, or with NaN/Inf (their count); rank, part, seed or tol out of range; a
            singular value to return is beyond float64's range.
    """
    began = time.perf_counter()
    largest = validate(weight, rank, part, seed, tol)
    exact = weight.detach().to("cpu") if weight.device.type == "mps" else weight.detach()
    exponent = exponent_of(largest)
    problem = _Problem(exact, exponent, rank, part, seed, tol)
    if largest == 0:
        outcome = _Outcome(_zero(problem.exact, rank), "dense", 0.0)
    else:
        outcome = _solve(problem)
    U, Vt = fix_signs(outcome.solution.U, outcome.solution.Vt)
    scale = 2.0**exponent
    S = _scaled_back(outcome.solution.S, scale)
    return Triplets(
        U=U.contiguous(),
        S=S,
        Vt=Vt.contiguous(),
        part=part,
        check=Check(
            method=outcome.method,
            residual=max(outcome.residual, _lost(S, scale, outcome.solution)),
            gap=_gap(outcome.solution, part),
            iterations=outcome.solution.iterations,
            seconds=time.perf_counter() - began,
            fallback=outcome.fallback,
        ),
        dead_below=_dead_below(problem, outcome.solution) * scale,
    )


def _scaled_back(S: Tensor, scale: float) -> Tensor:
    S = S * scale
    if not torch.isfinite(S[0]):
        raise UserError(
            "decompose: the weight's largest singular value is beyond float64's 1.8e308; "
            "divide the weight by its largest entry first"
        )
    return S


def _lost(S: Tensor, scale: float, solution: Solution) -> float:
    """What S lost where it is denormal, relative to sigma_1."""
    return float((S / scale - solution.S).abs().max()) / (solution.sigma_1 or 1.0)


def _dead_below(problem: _Problem, solution: Solution) -> float:
    """The noise of W's own digits, or of the arithmetic where that was in float32."""
    if solution.residual is not None:
        return _FLOAT32_NOISE * solution.sigma_1
    return rounding_noise(problem.exact, solution.sigma_1, problem.weight.dtype)


def methods_for(
    shape: tuple[int, int], rank: int, part: Part, tol: float = 1e-8
) -> tuple[Method, ...]:
    """The methods to try, the one expected to be quickest first."""
    m, n = shape
    small = min(m, n)
    if small <= _DENSE_UP_TO or 2 * rank > small:
        return ("dense",)
    if part == "principal" and tol >= FLOAT32_IS_ENOUGH:
        blocks = 2 if tol >= ANY else 2 - _BLOCKS_PER_DIGIT * math.log10(tol)
        columns = rank * blocks
        few = small > _ROUGH_GRAM_UP_TO and 2 * columns <= small
        return ("krylov", "gram", "dense") if few else ("gram", "dense")
    if small <= _GRAM_UP_TO or rank * _KRYLOV_SHARE > small or (part == "minor" and m != n):
        return ("gram", "dense")
    return ("krylov" if part == "principal" else "inverse", "gram", "dense")


def exponent_of(largest: float) -> int:
    """What a weight with that largest entry is scaled by, 2^-e: 0 for one of usual size.

    So that squares neither overflow nor vanish; a power of two rounds nothing.
    """
    _, exponent = math.frexp(largest)
    return 0 if abs(exponent) <= USUAL_EXPONENT else max(-1000, min(1000, exponent))


def _solve(problem: _Problem) -> _Outcome:
    """The first method that meets `tol`; the last one, the full SVD, in any case."""
    rank, part, tol = problem.rank, problem.part, problem.tol
    m, n = problem.weight.shape
    reason = None
    *quick, last = methods_for((m, n), rank, part, tol)
    for method in quick:
        try:
            solution = _run(method, problem)
        except (StalledError, LinAlgError) as failure:
            reason = f"{method}: {failure}"
        else:
            error = _residual(problem, solution)
            if error <= tol:
                return _Outcome(solution, method, error, reason)
            reason = f"{method}: residual {error:.1e} above tol {tol:.1e}"
        logger.info("%s part of a %d x %d weight: %s", part, m, n, reason)
    if quick:
        logger.warning("%s part of a %d x %d weight: %s; using the full SVD", part, m, n, reason)
    solution = dense(problem.exact, rank, part)
    error = _residual(problem, solution)
    if not accurate_enough(error, problem.exact):
        with suppress(LinAlgError):
            other = jacobi(problem.exact, rank, part)
            if not error <= (lower := _residual(problem, other)):
                solution, error = other, lower
    if not error <= tol:
        logger.warning("full SVD of a %d x %d weight: residual %.1e, tol %.1e", m, n, error, tol)
    return _Outcome(solution, last, error, reason)


def _run(method: Method, problem: _Problem) -> Solution:
    rank, seed, tol = problem.rank, problem.seed, problem.tol
    if method == "gram":
        large = min(problem.weight.shape) > _GRAM_UP_TO  # else the two take about as long
        found = rough_gram(problem.low, rank, tol=tol) if problem.rough and large else None
        return gram(problem.exact, rank, problem.part, tol=tol) if found is None else found
    if method == "inverse":
        return inverse(problem.exact, rank, low=problem.low, seed=seed, tol=tol)
    if problem.rough:
        return rough(problem.low, rank, seed=seed, tol=tol)
    return principal(problem.exact, rank, low=problem.low, seed=seed, tol=tol)


def _residual(problem: _Problem, found: Solution) -> float:
    if found.residual is not None:
        return found.residual
    return residual(problem.exact, found.U, found.S, found.Vt, found.sigma_1)


def _gap(solution: Solution, part: Part) -> float | None:
    """Distance of the kept sigma to the nearest one left out, relative to sigma_1."""
    if solution.following is None or not solution.sigma_1 > 0:
        return None
    edge = float(solution.S[-1] if part == "principal" else solution.S[0])
    return abs(edge - solution.following) / solution.sigma_1


def _zero(W: Tensor, rank: int) -> Solution:
    """W = 0: any orthonormal vectors will do."""
    m, n = W.shape
    S = W.new_zeros(rank)
    return Solution(W.new_ones(m).diag()[:, :rank], S, W.new_ones(n).diag()[:rank], sigma_1=0.0)


def validate(weight: Tensor, rank: int, part: Part, seed: int, tol: float) -> float:
    """Raise `UserError`, naming the argument and its value, for what cannot be decomposed.

    Returns:
        The largest magnitude of an entry, found on the way.
    """
    _validate_form(weight)
    if part not in get_args(Part):
        raise UserError(f"decompose: part={part!r} is unknown; use 'principal' or 'minor'")
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise UserError(f"decompose: rank={rank!r} is not an integer; pass an int such as 8")
    limit = min(weight.shape)
    if not 1 <= rank <= limit:
        raise UserError(
            f"decompose: rank={rank} is out of range for a weight of shape {tuple(weight.shape)}; "
            f"choose 1 to {limit}"
        )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"decompose: seed={seed!r} is not an integer; pass an int such as 0")
    if not 0 < tol < 1:
        raise UserError(f"decompose: tol={tol!r} is not between 0 and 1; pass a value such as 1e-8")
    return _validated_largest(weight)


def _validate_form(weight: Tensor) -> None:
    if not isinstance(weight, Tensor):
        raise UserError(
            f"decompose: weight is a {type(weight).__name__}, not a torch.Tensor; convert it first"
        )
    shape = tuple(weight.shape)
    if weight.ndim != 2:
        raise UserError(
            f"decompose: weight has shape {shape}, not 2 dimensions; "
            "reshape it to (out_features, in_features)"
        )
    if weight.numel() == 0:
        raise UserError(f"decompose: weight is empty, shape {shape}; pass one with entries")
    if weight.dtype not in _DTYPES:
        raise UserError(
            f"decompose: weight has dtype {weight.dtype}, not float16, bfloat16, float32 or "
            "float64; dequantise or convert it first"
        )
    if weight.layout != torch.strided:
        raise UserError(f"decompose: weight has layout {weight.layout}; call .to_dense() first")
    if weight.is_meta:
        raise UserError(
            f"decompose: weight of shape {shape} is on the meta device and holds no values; "
            "load the model's weights first"
        )


def _validated_largest(weight: Tensor) -> float:
    low, high = torch.aminmax(weight.detach())  # one pass, and NaN comes through
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = weight.numel() - int(torch.isfinite(weight).sum())
        raise UserError(
            f"decompose: weight has {bad} NaN or Inf of {weight.numel()} entries; "
            "check that the checkpoint loaded as intended"
        )
    return max(-float(low), float(high))
