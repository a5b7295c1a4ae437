"""What `decompose` accepts, said before any work is done."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ailora.errors import UserError
from ailora.linalg.triplets import Part

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
