"""The factors of a started adapter: PEFT's two linear layers, of which only what should trains.

With B0, A0 the starting factors (the *anchor*) and D_B = B - B0, D_A = A - A0, both zero at first,

    y = W x + s (B A - B0 A0) x = W x + s [D_B, B0] [A0 + D_A; D_A] x

which is the paper's W = W_r + B A (eqs. 4 and 6) with the same gradients, and a plain LoRA of rank
2r on the untouched W. The two matrices are ordinary parameters under PEFT's own names, so whoever
saves, copies, shards or overwrites them by name does what they mean to do. What makes them anchored
lies in the backward pass alone: both halves of A' get the sum of their gradients and so move alike,
and the right half of B' gets none. Differences rather than [A; A0] and [B, -B0] are stored, since
those cancel when a file is cast to 16 bits (up to 41 % of the update lost in bf16, here 0.2 %).

In a fused layer (query, key and value in one weight) each role is a block of its own: its rows of
A', its columns of B', and in those only its rows of the weight.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional

from ailora.errors import UserError
from ailora.roles import RoleKey, Rows, count_rows, put_rows, row_index, take_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One role's share of a layer's factors.

    Attributes:
        role: ``"q"``, ``"k"``, ``"v"``, ``"o"`` or ``"*"``.
        init: The start's name in `ailora.adapters.starts.STARTS`.
        rank: Rank r of what trains.
        anchored: Whether it is an anchor and differences (2r rows of A'), or plain (r rows).
        lr_ratio: Learning rate as a multiple of the optimiser's.
        rows: The role's rows of a fused layer's weight; None for the whole layer.
    """

    role: RoleKey
    init: str
    rank: int
    anchored: bool
    lr_ratio: float = 1.0
    rows: Rows | None = None

    @property
    def width(self) -> int:
        """Rows of A' and columns of B' that it takes: r, or 2r if it is anchored."""
        return self.rank * (2 if self.anchored else 1)

    def key(self, layer: str) -> str:
        """Name of its projection: the layer's, with the role appended in a fused layer."""
        return layer if self.rows is None else f"{layer}.{self.role}"


def placed(blocks: Sequence[Block]) -> list[tuple[Block, int]]:
    """Each block with its first row of A', which is its first column of B'."""
    found, start = [], 0
    for block in blocks:
        found.append((block, start))
        start += block.width
    return found


# Every factor in memory, for `ailora.adapters.optimizer`: an optimiser knows parameters only, and
# copies of a model have parameters of their own.
alive: WeakSet[Factor] = WeakSet()


class Factor(nn.Linear):
    """lora_A or lora_B of one layer, see above. ``weight`` is the stock matrix, A' or B'."""

    blocks: tuple[Block, ...]
    side: Literal["A", "B"]
    anchor: Tensor | None = None  # A0 of all anchored blocks, where steps must know it
    file_ratio: float = 1.0  # B as it is saved over B, see `StartedConfig.for_files`
    incoming: float | None = None  # the same of the file that is being read, where that is known

    @classmethod
    def over(
        cls, stock: nn.Linear, weight: Tensor, blocks: Sequence[Block], side: Literal["A", "B"]
    ) -> Factor:
        """A factor in place of PEFT's layer, with these values, trainable if that one was."""
        factor = cls.__new__(cls)
        nn.Module.__init__(factor)
        factor.in_features, factor.out_features = stock.in_features, stock.out_features
        # Not by assignment: inside accelerate's init_empty_weights that makes a meta tensor.
        factor._parameters["weight"] = nn.Parameter(weight, stock.weight.requires_grad)
        factor._parameters["bias"] = stock.bias
        factor.blocks, factor.side = tuple(blocks), side
        factor.training = stock.training
        alive.add(factor)
        return factor

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        alive.add(self)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = f"{prefix}weight"
        if key in state_dict:
            ratio = self._ratio_of(state_dict[key])
            if ratio != 1:
                state_dict[key] = state_dict[key] / ratio
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _ratio_of(self, saved: Tensor) -> float:
        """How many times this matrix one that is to be loaded is: a file's, or a model's own."""
        if self.incoming is not None or self.file_ratio == 1:
            return 1.0 if self.incoming is None else self.incoming
        weight = self.weight.detach()
        if saved.shape == weight.shape and weight.ndim == 2 and not weight.is_meta:
            for block, start in placed(self.blocks):  # B0 tells which of them it is
                columns = slice(start + block.rank, start + block.width)
                ours, theirs = weight[:, columns], saved[:, columns].to(weight)
                if block.anchored and not torch.equal(theirs, ours):
                    return self.file_ratio if torch.equal(theirs, ours * self.file_ratio) else 1.0
        if not self.is_anchored:
            logger.warning(
                "the B of a start without anchors was loaded as a model has it in memory; what "
                "comes from a saved folder is %g times that: read it with ailora.load_adapter",
                self.file_ratio,
            )
        return 1.0

    @property
    def is_anchored(self) -> bool:
        """Whether any of its blocks is anchored."""
        return any(block.anchored for block in self.blocks)

    @property
    def trained(self) -> int:
        """How many values train: of an anchored pair r (m + n), though the matrices have twice."""
        if self.side == "A":
            return sum(block.rank * self.in_features for block in self.blocks)
        return sum(
            block.rank * (self.out_features if block.rows is None else count_rows(block.rows))
            for block in self.blocks
        )

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Linear``; what should not train gets no gradient."""
        weight = self.weight
        if weight.requires_grad and torch.is_grad_enabled():
            self._check_width()
            if self.side == "A" and self.is_anchored:
                weight = _Tied.apply(weight, self.blocks)  # type: ignore[no-untyped-call]
            elif self.side == "B" and (self.is_anchored or self.blocks[0].rows is not None):
                weight = _Kept.apply(weight, self.blocks)  # type: ignore[no-untyped-call]
        return functional.linear(x, weight, self.bias)

    def _check_width(self) -> None:
        width = sum(block.width for block in self.blocks)
        found = self.weight.shape[0 if self.side == "A" else 1]
        if found != width:
            raise UserError(
                f"a factor of rank {width} was given rank {found} (as PEFT's preparation for "
                "hot-swapping does): train the adapter first, and prepare the model then"
            )

    def extra_repr(self) -> str:
        """Shape and blocks, for ``print(model)``."""
        roles = ", ".join(
            f"{block.role}: {block.init} r={block.rank}{' anchored' * block.anchored}"
            for block in self.blocks
        )
        return f"{super().extra_repr()}, {roles}"


class _AsItIs(torch.autograd.Function):
    """Identity in the forward pass; subclasses say what the backward pass does to each block."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, blocks: tuple[Block, ...]) -> Tensor:
        ctx.blocks = blocks
        return weight.view_as(weight)


class _Tied(_AsItIs):
    """A': both halves of an anchored block get the sum of their gradients."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        pieces = []
        for block, start in placed(ctx.blocks):
            piece = grad[start : start + block.width]
            if block.anchored:
                upper, lower = piece.chunk(2)
                pieces += [upper + lower] * 2
            else:
                pieces.append(piece)
        return torch.cat(pieces), None


class _Kept(_AsItIs):
    """B': a gradient only for what trains: a role's rows, and not the anchor."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        masked = torch.zeros_like(grad)
        for block, start in placed(ctx.blocks):
            columns = slice(start, start + block.rank)
            if block.rows is None:
                masked[:, columns] = grad[:, columns]
            else:
                index = _index(block.rows, grad.device)
                masked[index, columns] = grad[index, columns]
        return masked, None


@lru_cache(maxsize=512)
def _index(rows: Rows, device: torch.device) -> Tensor:
    return row_index(rows).to(device)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One role's factors, taken out of a layer's A' and B'.

    Attributes:
        A: The factor as it is now, (r, n).
        B: The factor as it is now, (m, r), the role's rows alone.
        A0: The anchor of A; None where the block is plain.
        B0: The anchor of B; None where the block is plain.
    """

    A: Tensor
    B: Tensor
    A0: Tensor | None = None
    B0: Tensor | None = None


def cut(A: Tensor, B: Tensor, blocks: Sequence[Block]) -> list[Part]:
    """Each block's factors, of a layer's A' (R, n) and B' (m, R), R the sum of their widths."""
    return [_part(block, start, A, B) for block, start in placed(blocks)]


def _part(block: Block, start: int, A: Tensor, B: Tensor) -> Part:
    rows, columns = A[start : start + block.width], B[:, start : start + block.width]
    if block.rows is not None:
        columns = take_rows(columns, block.rows)
    if not block.anchored:
        return Part(A=rows, B=columns)
    r = block.rank
    anchor = columns[:, r:]
    return Part(A=rows[:r], B=columns[:, :r] + anchor, A0=rows[:r] - rows[r:], B0=anchor)


def joined(
    parts: Sequence[tuple[Tensor, Tensor]], blocks: Sequence[Block], out_features: int
) -> tuple[Tensor, Tensor]:
    """A' and B' of a layer whose blocks start at these A (r, n) and B (m_p, r).

    An anchored block is [A; 0] and [0, B], whose product is exactly zero.
    """
    rows, columns = [], []
    for (A, B), block in zip(parts, blocks, strict=True):
        whole = B if block.rows is None else put_rows(B, block.rows, out_features)
        if block.anchored:
            rows += [A, torch.zeros_like(A)]
            columns += [torch.zeros_like(whole), whole]
        else:
            rows.append(A)
            columns.append(whole)
    return torch.cat(rows), torch.cat(columns, dim=1)
