"""The matrix W of y = W x that a layer holds, however it is laid out or stored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ailora.errors import UserError


def is_projection(module: nn.Module) -> bool:
    """Whether the layer computes y = W x (+ b) with a 2-D floating-point or quantised W."""
    if not isinstance(module, nn.Linear | Conv1D):
        return False
    return is_quantised(module) or (module.weight.ndim == 2 and module.weight.is_floating_point())


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(out_features, in_features); packed 4-bit weights do not have the shape of W."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    in_features, out_features = module.weight.shape  # type: ignore[misc]
    return out_features, in_features


def dtype_of(module: nn.Module) -> torch.dtype:
    """Data type of W; of a quantised one, what it is dequantised to."""
    return matrix_of(module).dtype if is_quantised(module) else module.weight.dtype  # type: ignore[return-value]


@torch.no_grad()
def matrix_of(module: nn.Module) -> Tensor:
    """W (out_features, in_features), detached: the weight itself, its transpose or a copy.

    A quantised W is dequantised into a copy; the layer keeps its own.

    Raises:
        UserError: if bitsandbytes has packed W for inference, which rounds its scales.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)  # noqa: S101
    if _is_torchao(weight):
        return weight.detach().dequantize()
    if _is_bitsandbytes(weight):
        check_not_packed(module, type(module).__name__)
        return _dequantised(module, weight)
    return weight.detach().T if isinstance(module, Conv1D) else weight.detach()


def is_quantised(module: nn.Module) -> bool:
    """Whether bitsandbytes (4 or 8 bits) or torchao holds the layer's weight."""
    weight = module.weight
    return isinstance(weight, Tensor) and (_is_torchao(weight) or _is_bitsandbytes(weight))


def check_not_packed(module: nn.Module, name: str) -> None:
    """Raise a UserError if a forward pass in eval mode has packed the layer's 4-bit weight."""
    state = getattr(module.weight, "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        raise UserError(
            f"{name}: bitsandbytes packed this 4-bit weight for inference when the model was run "
            "in eval mode on this processor, which rounds it and has no gradient; load the model "
            "again and start the adapter before running it"
        )


def _is_torchao(weight: Tensor) -> bool:
    return type(weight).__module__.startswith("torchao.")


def _is_bitsandbytes(weight: Tensor) -> bool:
    return type(weight).__module__.startswith("bitsandbytes.")


def _dequantised(module: nn.Module, weight: Tensor) -> Tensor:
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight  # noqa: PLC0415 (slow)

    # Scales of an 8-bit layer move from the weight to the layer's state at its first forward, and
    # transformers' function would move them: it gets a state of its own.
    state: Any = getattr(module, "state", None)
    scales = getattr(state, "SCB", None)
    held = SimpleNamespace(SCB=getattr(weight, "SCB", None) if scales is None else scales)
    dequantised: Tensor = dequantize_bnb_weight(weight, state=held)
    return dequantised
