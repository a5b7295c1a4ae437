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

A stack of experts (one parameter, E x m x n) has all of this once per expert, in the order that
PEFT's ``ParamWrapper`` gives it: the E experts' A' one below the other, while column j E + e of B'
is column j of expert e's. `by_rank` is the one place that knows.
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
        parameter: The module's parameter that it is for, where that is a stack of experts.
        experts: How many experts are in that stack; all blocks of a layer have the same.
    """

    role: RoleKey
    init: str
    rank: int
    anchored: bool
    lr_ratio: float = 1.0
    rows: Rows | None = None
    parameter: str | None = None
    experts: int = 1

    @property
    def width(self) -> int:
        """Rows of A' and columns of B' that it takes, per expert: r, or 2r if it is anchored."""
        return self.rank * (2 if self.anchored else 1)

    def name(self, layer: str) -> str:
        """What PEFT's patterns call the weight: the layer, or its parameter (wrappers nest)."""
        if self.parameter is None:
            return layer
        return f"{layer.replace('.base_layer', '')}.{self.parameter}"

    def key(self, layer: str) -> str:
        """Name of its projection: the weight's, with the role appended in a fused one."""
        return self.name(layer) if self.rows is None else f"{self.name(layer)}.{self.role}"


def placed(blocks: Sequence[Block]) -> list[tuple[Block, int]]:
    """Each block with its first row of A', which is its first column of B'."""
    found, start = [], 0
    for block in blocks:
        found.append((block, start))
        start += block.width
    return found


def by_rank(matrix: Tensor, side: Literal["A", "B"], experts: int) -> Tensor:
    """A' (E R, n) as (E, R, n), or B' (m, R E) as (m, R, E): the rank is the middle one."""
    if side == "A":
        return matrix.reshape(experts, matrix.shape[0] // experts, matrix.shape[1])
    return matrix.reshape(matrix.shape[0], matrix.shape[1] // experts, experts)


# Every factor in memory, for `ailora.adapters.step_hooks`: an optimiser knows parameters only, and
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
            ranks, saved_ranks = (by_rank(M, "B", self.experts) for M in (weight, saved))
            for block, start in placed(self.blocks):  # B0 tells which of them it is
                columns = slice(start + block.rank, start + block.width)
                ours, theirs = ranks[:, columns], saved_ranks[:, columns].to(weight)
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
    def experts(self) -> int:
        """How many experts' factors it holds; 1 in a layer."""
        return self.blocks[0].experts

    @property
    def is_anchored(self) -> bool:
        """Whether any of its blocks is anchored."""
        return any(block.anchored for block in self.blocks)

    @property
    def trained(self) -> int:
        """How many values train: of an anchored pair r (m + n), though the matrices have twice."""
        if self.side == "A":
            return self.experts * sum(block.rank * self.in_features for block in self.blocks)
        return self.experts * sum(
            block.rank * (self.out_features if block.rows is None else count_rows(block.rows))
            for block in self.blocks
        )

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Linear``; what should not train gets no gradient."""
        return functional.linear(x, self._training(self.weight), self.bias)

    def _training(self, weight: Tensor) -> Tensor:
        """The matrix as the forward pass is to see it: its gradient is that of what trains."""
        if not (weight.requires_grad and torch.is_grad_enabled()):
            return weight
        self._check_width(weight)
        if self.side == "A" and self.is_anchored:
            return _Tied.apply(weight, self.blocks)  # type: ignore[no-any-return,no-untyped-call]
        if self.side == "B" and (self.is_anchored or self.blocks[0].rows is not None):
            return _Kept.apply(weight, self.blocks)  # type: ignore[no-any-return,no-untyped-call]
        return weight

    def _check_width(self, weight: Tensor) -> None:
        width = self.experts * sum(block.width for block in self.blocks)
        found = weight.shape[0 if self.side == "A" else 1]
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


class ExpertFactor(Factor):
    """lora_A or lora_B of a stack of experts.

    PEFT's ``ParamWrapper`` does not call it but reads ``weight`` where it computes the update.
    There, `in_update`, it reads the matrix with the gradient of what trains; anywhere else
    ``weight`` is the parameter itself.
    """

    in_update: bool = False

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The stock matrix, A' or B'."""
        weight = self._parameters["weight"]
        assert weight is not None  # noqa: S101
        return self._training(weight) if self.in_update else weight


class _AsItIs(torch.autograd.Function):
    """Identity in the forward pass; subclasses say what the backward pass does to each block."""

    generate_vmap_rule = True  # for torch.func's gradients per row

    @staticmethod
    def forward(weight: Tensor, blocks: tuple[Block, ...]) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[Block, ...]], output: Tensor) -> None:
        ctx.blocks = inputs[1]


class _Tied(_AsItIs):
    """A': both halves of an anchored block get the sum of their gradients."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        ranks, pieces = by_rank(grad, "A", ctx.blocks[0].experts), []
        for block, start in placed(ctx.blocks):
            piece = ranks[:, start : start + block.width]
            if block.anchored:
                upper, lower = piece.chunk(2, dim=1)
                pieces += [upper + lower] * 2
            else:
                pieces.append(piece)
        return torch.cat(pieces, dim=1).view_as(grad), None


class _Kept(_AsItIs):
    """B': a gradient only for what trains: a role's rows, and not the anchor."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        ranks = by_rank(grad, "B", ctx.blocks[0].experts)
        masked = torch.zeros_like(ranks, memory_format=torch.contiguous_format)
        for block, start in placed(ctx.blocks):
            columns = slice(start, start + block.rank)
            if block.rows is None:
                masked[:, columns] = ranks[:, columns]
            else:
                index = _index(block.rows, grad.device)
                masked[index, columns] = ranks[index, columns]
        return masked.view(grad.shape), None


@lru_cache(maxsize=512)
def _index(rows: Rows, device: torch.device) -> Tensor:
    return row_index(rows).to(device)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One role's factors, taken out of a layer's A' and B'.

    Attributes:
        A: The factor as it is now, (r, n); of a stack of experts (E, r, n).
        B: The factor as it is now, (m, r) or (E, m, r), the role's rows alone.
        A0: The anchor of A; None where the block is plain.
        B0: The anchor of B; None where the block is plain.
    """

    A: Tensor
    B: Tensor
    A0: Tensor | None = None
    B0: Tensor | None = None


def cut(A: Tensor, B: Tensor, blocks: Sequence[Block]) -> list[Part]:
    """Each block's factors, of A' (E R, n) and B' (m, R E), R the sum of the blocks' widths."""
    return [_part(block, start, A, B) for block, start in placed(blocks)]


def _part(block: Block, start: int, A: Tensor, B: Tensor) -> Part:
    at = slice(start, start + block.width)
    rows, columns = by_rank(A, "A", block.experts)[:, at], by_rank(B, "B", block.experts)[:, at]
    if block.rows is not None:
        columns = take_rows(columns, block.rows)
    columns = columns.permute(2, 0, 1)
    if block.parameter is None:
        rows, columns = rows[0], columns[0]
    if not block.anchored:
        return Part(A=rows, B=columns)
    r = block.rank
    upper, lower, anchor = rows[..., :r, :], rows[..., r:, :], columns[..., r:]
    return Part(A=upper, B=columns[..., :r] + anchor, A0=upper - lower, B0=anchor)


def joined(
    parts: Sequence[tuple[Tensor, Tensor]], blocks: Sequence[Block], out_features: int
) -> tuple[Tensor, Tensor]:
    """A' and B' of a layer whose blocks start at these A (r, n) and B (m_p, r).

    An anchored block is [A; 0] and [0, B], whose product is exactly zero. Of a stack of experts
    they are (E, r, n) and (E, m_p, r).
    """
    rows, columns = [], []
    for (A, B), block in zip(parts, blocks, strict=True):
        upper = by_rank(A.flatten(0, -2), "A", block.experts)
        part = B.reshape(block.experts, -1, block.rank).permute(1, 2, 0)
        whole = part if block.rows is None else put_rows(part, block.rows, out_features)
        if block.anchored:
            rows += [upper, torch.zeros_like(upper)]
            columns += [torch.zeros_like(whole), whole]
        else:
            rows.append(upper)
            columns.append(whole)
    return torch.cat(rows, dim=1).flatten(0, 1), torch.cat(columns, dim=1).flatten(1)
