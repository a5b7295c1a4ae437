"""Many weights of one shape at once: experts of a mixture, layers of a small model.

A small weight's decomposition is mostly calls. Here the Gram matrices of all and the check are one
call each, on a GPU their eigenvectors too. Whatever does not pass the check (a sigma that
squaring lost, zeros, an entry beyond the usual size) goes through `decompose` by itself, and so do
weights that are too large to gain.
"""

from __future__ import annotations

import time
from contextlib import suppress

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ailora.errors import UserError
from ailora.linalg.decomposition import decompose, exponent_of, validate
from ailora.linalg.eigen import eigh_end
from ailora.linalg.gram import clean, projected
from ailora.linalg.triplets import Check, Part, Triplets, fix_signs, residuals, rounding_noises

# Milliseconds a weight, one thread, rank 8, together beside one by one and torch's fp32 SVD:
# 128 x 64: 0.31, 0.72, 0.35; 128 x 128: 0.65, 0.86, 1.0; 256 x 128: 0.83, 1.1, 1.6;
# 384 x 384: 7, 7, 14.
_TOGETHER_UP_TO = 384
_AT_ONCE = 2**24  # entries of a chunk, 128 MB in float64


@torch.no_grad()
def decompose_batch(
    weights: Tensor, rank: int, part: Part, *, seed: int = 0, tol: float = 1e-8
) -> list[Triplets]:
    """The r largest or r smallest singular triplets of each of many weights of one shape.

    As `decompose` of each, with the same promises; in float64, one check per weight. Memory beyond
    the weights: what is returned, and some 0.5 GB.

    Args:
        weights: (E, m, n), float16, bfloat16, float32 or float64, E >= 0, any strides.
        rank: r, 1 <= r <= min(m, n).
        part: "principal", the r largest; "minor", the r smallest.
        seed: See `decompose`.
        tol: See `decompose`.

    Returns:
        Triplets of ``weights[0]``, ``weights[1]``, ...: E of them, each with U (m, r), S (r,)
        descending, Vt (r, n) and its own check.

    Raises:
        UserError: weights is not a 3-D floating tensor; as `decompose` for the rest, naming the
            first weight with NaN or Inf by its number.
    """
    largest = _validated(weights, rank, part, seed, tol)
    if not largest:
        return []
    weights = weights.detach()
    if min(weights.shape[1:]) > _TOGETHER_UP_TO:
        return [decompose(weight, rank, part, seed=seed, tol=tol) for weight in weights]
    found: dict[int, Triplets | None] = {}
    usual = [number for number, size in enumerate(largest) if exponent_of(size) == 0]
    chunk = max(1, _AT_ONCE // weights[0].numel())
    for start in range(0, len(usual), chunk):
        numbers = usual[start : start + chunk]
        some = weights[numbers]
        with suppress(LinAlgError):  # of one of them: each by itself
            together = _together(some.cpu() if some.is_mps else some, rank, part, tol)
            found.update(zip(numbers, together, strict=True))
    return [
        found.get(number) or decompose(weight, rank, part, seed=seed, tol=tol)
        for number, weight in enumerate(weights)
    ]


def _together(weights: Tensor, rank: int, part: Part, tol: float) -> list[Triplets | None]:
    """Triplets by the Gram matrices; None where their residual is above `tol`."""
    began = time.perf_counter()
    W = weights.to(torch.float64)
    wide = W.shape[1] < W.shape[2]
    tall = W.mT if wide else W
    values, X, largest = _ends(tall.mT @ tall, min(rank + 1, tall.shape[2]), part)
    values = values.clamp(min=0)  # rounding may leave a zero below it
    P, S, V = projected(tall, X[:, :, :rank])
    U, V = (V, P) if wide else (P, V)
    U, Vt = fix_signs(U, V.mT)
    sigma_1 = largest.clamp(min=0).sqrt()
    errors = residuals(W, U, S, Vt, sigma_1)
    noise = rounding_noises(W, sigma_1, weights.dtype).tolist()
    gaps: list[float | None] = [None] * len(W)
    if values.shape[1] > rank:
        edge = S[:, -1] if part == "principal" else S[:, 0]
        gaps = ((edge - values[:, rank].sqrt()).abs() / sigma_1).tolist()
    seconds = (time.perf_counter() - began) / len(W)
    return [
        Triplets(
            U=U[i].contiguous(),
            S=S[i].clone(),
            Vt=Vt[i].contiguous(),
            part=part,
            check=Check(method="gram", residual=error, iterations=0, seconds=seconds, gap=gaps[i]),
            dead_below=noise[i],
        )
        if error <= tol and clean(values[i, :rank], part, tol, float(largest[i]))
        else None
        for i, error in enumerate(errors.tolist())
    ]


def _ends(G: Tensor, count: int, part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """As `eigh_end` of each of a batch (E, n, n): (E, count), (E, n, count) and (E,)."""
    if G.device.type == "cpu":  # where a batch is one after the other too, and of all eigenpairs
        ends = [eigh_end(one, count, part) for one in G]
        values, vectors = (torch.stack(x) for x in list(zip(*ends, strict=True))[:2])
        return values, vectors, values.new_tensor([end.largest for end in ends])
    values, vectors = torch.linalg.eigh(G)
    largest = values[:, -1]
    if part == "principal":
        values, vectors = values.flip(1), vectors.flip(2)
    return values[:, :count], vectors[:, :, :count], largest


def _validated(weights: Tensor, rank: int, part: Part, seed: int, tol: float) -> list[float]:
    """Raise a UserError as `decompose` would of each; else the largest magnitude in each."""
    if not isinstance(weights, Tensor) or weights.ndim != 3:
        what = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise UserError(
            f"decompose_batch: weights is {what}, not a tensor of 3 dimensions (E, m, n); "
            "stack weights of one shape"
        )
    if not weights.shape[0]:
        return []
    validate(weights[0], rank, part, seed, tol)
    flat = weights.detach().flatten(1)
    largest: list[float] = torch.maximum(flat.amax(1), -flat.amin(1)).tolist()
    for number, size in enumerate(largest):
        if not size < float("inf"):
            raise UserError(
                f"decompose_batch: weights[{number}] has NaN or Inf; check that the checkpoint "
                "loaded as intended"
            )
    return largest
