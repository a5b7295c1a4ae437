"""Factors of a fused layer (query, key and value in one weight), of which some roles train.

Each role is a part with factors of its own, A_p (r_p x n) and B_p (m_p x r_p), B_p on that role's
rows of the weight. Together they are a plain LoRA of the whole layer: A' stacks the A_p, and B'
scatters each B_p to its rows, zero elsewhere, so that no other role moves. Parts may be anchored
(`factors`) and differ in rank, scale and learning rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ailora.adapters.factors.anchored import Factor
from ailora.adapters.factors.sharding import fill, whole
from ailora.roles import Rows, row_index


class PlainFactor(Factor):
    """A part without an anchor: the trainable ``value`` is the stock matrix itself."""

    def __init__(self, value: Tensor, lr_ratio: float = 1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())
        self.lr_ratio = lr_ratio

    @property
    def weight(self) -> Tensor:
        """The matrix that trains."""
        return whole(self.value)

    @property
    def stock_shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        rows, columns = self.value.shape
        return rows, columns

    @torch.no_grad()
    def restore(self, weight: Tensor) -> None:
        """Take the matrix, in place."""
        fill(self.value, weight)


class FusedFactor(Factor):
    """Parts by role, as one stock matrix."""

    parts: nn.ModuleDict

    def __init__(self, parts: Mapping[str, Factor]) -> None:
        super().__init__()
        for part in parts.values():
            part.part_of_fused = True
        self.parts = nn.ModuleDict(parts)

    def part(self, role: str) -> Factor:
        """One role's factor."""
        found = self.parts[role]
        assert isinstance(found, Factor)  # noqa: S101
        return found

    def roles(self) -> Iterator[tuple[str, Factor]]:
        """Each role with its factor, in the order of the stock matrix."""
        return ((role, self.part(role)) for role in self.parts)


class FusedA(FusedFactor):
    """lora_A of a fused layer: the parts' rows one below the other, (sum of ranks, n)."""

    @property
    def weight(self) -> Tensor:
        """A' (R, n), R the sum of the parts' stock ranks."""
        return torch.cat([part.weight for _, part in self.roles()])

    @property
    def stock_shape(self) -> tuple[int, int]:
        """(R, n)."""
        shapes = [part.stock_shape for _, part in self.roles()]
        return sum(rows for rows, _ in shapes), shapes[0][1]

    def restore(self, weight: Tensor) -> None:
        """Give each part its rows."""
        sizes = [part.stock_shape[0] for _, part in self.roles()]
        for (_, part), piece in zip(self.roles(), torch.split(weight, sizes), strict=True):
            part.restore(piece)


class FusedB(FusedFactor):
    """lora_B of a fused layer: the parts' columns side by side, each on its role's rows.

    Args:
        parts: lora_B of each role, (m_p, r_p).
        rows: Rows of the fused weight that each role has.
        gains: Each role's scale s_p relative to the layer's one scale. Powers of two (equal
            scales, a baked ratio of 2) are exact; others cost a rounding when a file is loaded.
        out_features: m of the fused weight.
    """

    def __init__(
        self,
        parts: Mapping[str, Factor],
        rows: Mapping[str, Rows],
        gains: Mapping[str, float],
        out_features: int,
    ) -> None:
        super().__init__(parts)
        self.gains, self.blocks = dict(gains), dict(rows)
        self.out_features = out_features
        device = next(self.parameters()).device
        for role, blocks in rows.items():
            index = row_index(blocks).to(device)
            self.register_buffer(f"rows_{role}", index, persistent=False)

    @property
    def weight(self) -> Tensor:
        """B' (m, R): zero but for each part's rows."""
        return torch.cat([self._scattered(role, part) for role, part in self.roles()], dim=1)

    @property
    def stock_shape(self) -> tuple[int, int]:
        """(m, R)."""
        return self.out_features, sum(part.stock_shape[1] for _, part in self.roles())

    def _scattered(self, role: str, part: Factor) -> Tensor:
        columns = part.weight * self.gains[role]
        whole = columns.new_zeros(self.out_features, columns.shape[1])
        return whole.index_copy(0, self._rows(role), columns)

    def restore(self, weight: Tensor) -> None:
        """Give each part its rows and columns; other rows are zero in what this class saved."""
        sizes = [part.stock_shape[1] for _, part in self.roles()]
        for role, blocks in self.blocks.items():  # lost if the module was on the meta device
            self._rows(role).copy_(row_index(blocks))
        for (role, part), piece in zip(
            self.roles(), torch.split(weight, sizes, dim=1), strict=True
        ):
            part.restore(piece[self._rows(role).to(piece.device)] / self.gains[role])

    def _rows(self, role: str) -> Tensor:
        return self.get_buffer(f"rows_{role}")
