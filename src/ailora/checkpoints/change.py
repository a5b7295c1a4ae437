"""New values for a stored tensor, made a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

_BLOCK = 1 << 21  # values a block: 16 MB in fp64


class NewTensor(Protocol):
    """What is written in place of a stored tensor of the same shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type it is written in."""

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """Its rows in order, a block at a time.

        Args:
            stored: The old tensor: anything that slices by rows, as safetensors' slices do.
        """


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Stored + left @ right, in fp64 and rounded once.

    Attributes:
        left: (rows, k) fp64.
        right: (k, columns) fp64.
    """

    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)

    def blocks(self, stored: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of rows of the exact sum, and of what was added, both fp64."""
        rows, columns = self.left.shape[0], self.right.shape[1]
        step = max(1, _BLOCK // columns)
        for start in range(0, rows, step):
            added = self.left[start : start + step] @ self.right
            yield stored[start : start + step].double() + added, added


@dataclass(frozen=True, kw_only=True)
class Added:
    """A low-rank change of a stored tensor, written in ``dtype``."""

    change: LowRank
    dtype: torch.dtype

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """The changed rows, rounded once."""
        return (exact.to(self.dtype) for exact, _ in self.change.blocks(stored))


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """Another tensor in place of the stored one, cast to ``dtype``."""

    value: Tensor = field(repr=False)
    dtype: torch.dtype

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """All of it."""
        del stored
        yield self.value.to(self.dtype)


def rounding_loss(change: LowRank, stored: Any, dtype: torch.dtype) -> float:
    """What rounding to ``dtype`` costs: ||exact - rounded||_F / ||left right||_F.

    Returns:
        The ratio; infinite where a value overflows, 0 where nothing is added.
    """
    lost = size = 0.0
    for exact, added in change.blocks(stored):
        lost += float((exact - exact.to(dtype).double()).square().sum())
        size += float(added.square().sum())
    return (lost / size) ** 0.5 if size else 0.0
