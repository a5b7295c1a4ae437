"""What a projection is: the weight, or the rows of a fused weight, that plays one role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ailora.roles.weights import dtype_of, matrix_of, shape_of

RoleName = Literal["q", "k", "v", "o"]
RoleKey = Literal["q", "k", "v", "o", "*"]  # "*": a layer that plays none of the named roles
AttentionKind = Literal["self", "cross"]
Stack = Literal["encoder", "decoder", ""]
Rows = tuple[tuple[int, int], ...]

ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear layer of a model, or the rows of one, with the role that it plays.

    Attributes:
        name: Dotted path of the module in the model, as PEFT's ``target_modules`` names it.
        role: ``"q"``, ``"k"``, ``"v"`` or ``"o"``; ``"*"`` for a layer that plays none of them.
        layer: Index of the layer in its stack, the number that PEFT's ``layers_to_transform``
            compares: the outermost one in ``name``. None where the path has no number, or where
            one module serves every layer (ALBERT).
        attention: ``"cross"`` where keys and values come from another sequence, else ``"self"``.
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


def take_rows(whole: Tensor, rows: Rows) -> Tensor:
    """The rows of `whole` (M, k) that are in these blocks, (m, k)."""
    return torch.cat([whole[start:stop] for start, stop in rows])


def put_rows(part: Tensor, rows: Rows, height: int) -> Tensor:
    """The reverse of `take_rows`: (m, k) on these rows of a matrix (height, k), zero elsewhere."""
    whole = part.new_zeros(height, part.shape[1])
    return whole.index_copy(0, row_index(rows).to(part.device), part)


def count_rows(rows: Rows) -> int:
    """How many rows are in these blocks."""
    return sum(stop - start for start, stop in rows)


def row_index(rows: Rows) -> Tensor:
    """Indices of the rows in these blocks, (m,) int64."""
    return torch.cat([torch.arange(start, stop) for start, stop in rows])
