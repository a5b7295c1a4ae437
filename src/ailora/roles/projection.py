"""A projection: the weight, or the rows of a fused weight, that plays one role.

Its layer computes y = W x, however W is laid out (GPT-2's Conv1D holds its transpose) or stored
(quantised by bitsandbytes or torchao).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from ailora.errors import UserError

RoleName = Literal["q", "k", "v", "o", "gate", "up", "down"]
# "*": a layer that plays none of the named roles
RoleKey = Literal["q", "k", "v", "o", "gate", "up", "down", "*"]
AttentionKind = Literal["self", "cross"]
Stack = Literal["encoder", "decoder", ""]
Rows = tuple[tuple[int, int], ...]

ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)
ATTENTION_ROLES: tuple[RoleName, ...] = ("q", "k", "v", "o")
FEED_FORWARD_ROLES: tuple[RoleName, ...] = ("gate", "up", "down")


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear layer of a model, or the rows of one, with the role that it plays.

    Attributes:
        name: Dotted path of the module in the model, as PEFT's ``target_modules`` names it.
        role: One of `ROLE_NAMES`, or ``"*"`` for a layer that plays none of them. Of a feed-forward
            block down(act(gate x) * up x) the three by these names; of one without a gate,
            down(act(up x)), its first matrix is ``"up"``.
        layer: Index of the layer in its stack, the number that PEFT's ``layers_to_transform``
            compares: the outermost one in ``name``. None where the path has no number, or where
            one module serves every layer (ALBERT).
        attention: ``"cross"`` where keys and values come from another sequence, else ``"self"``,
            in a feed-forward block too.
        stack: ``"encoder"`` or ``"decoder"`` where the path says so, else ``""``.
        rows: In a fused layer, the half-open blocks of rows of W in y = W x that belong to this
            role, ascending and apart; several where heads alternate (BLOOM). None: all of W.
        module: The layer itself; inside a PEFT model, the base layer.
    """

    name: str
    role: RoleKey
    layer: int | None
    attention: AttentionKind = "self"
    stack: Stack = ""
    rows: Rows | None = None
    module: nn.Module = field(repr=False)

    @property
    def key(self) -> str:
        """The name that is this projection's alone: ``name``, in a fused layer ``name.role``."""
        return self.name if self.rows is None else f"{self.name}.{self.role}"

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of this role's part of W in y = W x: its rows, and in_features."""
        rows, columns = shape_of(self.module)
        if self.rows is not None:
            rows = count_rows(self.rows)
        return rows, columns

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weight; of a quantised one, what it is dequantised to."""
        return dtype_of(self.module)

    def weight(self) -> Tensor:
        """This role's part of W, (m, n), detached; a copy only where rows or storage need one."""
        W = matrix_of(self.module)
        return W if self.rows is None else take_rows(W, self.rows)

    def set_weight(self, weight: Tensor) -> None:
        """Write this role's part (m, n) into the layer, rounded to its dtype; no other row moves.

        Only for floating-point layers: a quantised one would have to be packed again.
        """
        W = matrix_of(self.module)
        done = 0
        for start, stop in self.rows or ((0, W.shape[0]),):
            W[start:stop] = weight[done : done + stop - start]
            done += stop - start


def starred(projection: Projection) -> Projection:
    """The projection with the role ``"*"``; rows of a fused layer keep their own name."""
    if projection.rows is not None:
        return projection
    return replace(projection, role="*")


def take_rows(whole: Tensor, rows: Rows) -> Tensor:
    """The rows of `whole` (M, ...) that are in these blocks, (m, ...)."""
    return torch.cat([whole[start:stop] for start, stop in rows])


def put_rows(part: Tensor, rows: Rows, height: int) -> Tensor:
    """The reverse of `take_rows`: (m, ...) on these rows of (height, ...), zero elsewhere."""
    whole = part.new_zeros(height, *part.shape[1:])
    return whole.index_copy(0, row_index(rows).to(part.device), part)


def count_rows(rows: Rows) -> int:
    """How many rows are in these blocks."""
    return sum(stop - start for start, stop in rows)


def row_index(rows: Rows) -> Tensor:
    """Indices of the rows in these blocks, (m,) int64."""
    return torch.cat([torch.arange(start, stop) for start, stop in rows])


def is_projection(module: nn.Module) -> bool:
    """Whether the layer computes y = W x (+ b) with a 2-D floating-point or quantised W.

    One that torch computes at each call (weight norm) is none: an update could not be merged.
    """
    if not isinstance(module, nn.Linear | Conv1D) or is_computed(module):
        return False
    weight: Any = module.weight
    return is_quantised(module) or (len(whole_shape(weight)) == 2 and weight.is_floating_point())


def is_computed(module: nn.Module) -> bool:
    """Whether torch computes the weight from others at each call."""
    older = {"weight_g", "weight_orig"} & set(module._parameters)  # weight_norm, prune
    return parametrize.is_parametrized(module, "weight") or bool(older)


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(out_features, in_features); packed 4-bit weights do not have the shape of W."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    in_features, out_features = whole_shape(module.weight)  # type: ignore[arg-type]
    return out_features, in_features


def whole_shape(weight: Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also where DeepSpeed ZeRO-3 holds it in pieces and it is empty."""
    return tuple(getattr(weight, "ds_shape", weight.shape))


def dtype_of(module: nn.Module) -> torch.dtype:
    """Data type of W; of a quantised one, what it is dequantised to."""
    return matrix_of(module).dtype if is_quantised(module) else module.weight.dtype  # type: ignore[return-value]


@torch.no_grad()
def matrix_of(module: nn.Module) -> Tensor:
    """W (out_features, in_features), detached: the weight itself, its transpose or a copy.

    A quantised W is dequantised into a copy; the layer keeps its own. One that DeepSpeed ZeRO-3
    holds in pieces is gathered into a copy, by all processes at the same time.

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
    if is_in_pieces(weight):
        weight = _gathered(weight)
    return weight.detach().T if isinstance(module, Conv1D) else weight.detach()


def is_quantised(module: nn.Module) -> bool:
    """Whether bitsandbytes (4 or 8 bits) or torchao holds the layer's weight."""
    weight = module.weight
    return isinstance(weight, Tensor) and (_is_torchao(weight) or _is_bitsandbytes(weight))


def is_packed(module: nn.Module) -> bool:
    """Whether bitsandbytes has packed the layer's 4-bit weight for inference on a processor."""
    state = getattr(module.weight, "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False))


def check_not_packed(module: nn.Module, name: str) -> None:
    """Raise a UserError if a forward pass in eval mode has packed the layer's 4-bit weight."""
    if is_packed(module):
        raise UserError(
            f"{name}: bitsandbytes packed this 4-bit weight for inference when the model was run "
            "in eval mode on this processor, which rounds it and has no gradient; load the model "
            "again and start the adapter before running it"
        )


def is_in_pieces(weight: Tensor) -> bool:
    """Whether DeepSpeed ZeRO-3 holds the parameter in pieces, one per process."""
    return hasattr(weight, "ds_shape") and tuple(weight.shape) != whole_shape(weight)


def _gathered(weight: Tensor) -> Tensor:
    import deepspeed  # noqa: PLC0415 (the parameter is its own)

    with deepspeed.zero.GatheredParameters([weight]):
        return weight.detach().clone()


def _is_torchao(weight: Tensor) -> bool:
    return type(weight).__module__.startswith("torchao.")


def _is_bitsandbytes(weight: Tensor) -> bool:
    return type(weight).__module__.startswith("bitsandbytes.")


def _dequantised(module: nn.Module, weight: Tensor) -> Tensor:
    from bitsandbytes import functional  # noqa: PLC0415 - slow, and optional

    stored: Any = weight
    if hasattr(stored, "quant_state"):
        four_bits: Tensor = functional.dequantize_4bit(stored.data, stored.quant_state)
        return four_bits
    # Scales of an 8-bit layer move from the weight to the layer's state at its first forward.
    scales = getattr(getattr(module, "state", None), "SCB", None)
    scales = stored.SCB if scales is None else scales
    eight_bits: Tensor = functional.int8_vectorwise_dequant(
        stored.data, scales.to(stored.data.device)
    )
    return eight_bits
