"""New values for a stored tensor, made a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ailora.linalg.lowrank import LowRank

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
class Added:
    """A low-rank change of a stored tensor (of its shape), written in ``dtype``."""

    change: LowRank
    dtype: torch.dtype

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """The changed rows, computed in fp64 and rounded once."""
        return (exact.to(self.dtype) for exact, _ in _summed(self.change, stored))


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A whole tensor, cast to ``dtype``: in place of a stored one, or one more."""

    value: Tensor = field(repr=False)
    dtype: torch.dtype

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """All of it."""
        del stored
        yield self.value.to(self.dtype)


def as_stored(change: LowRank, *, transposed: bool) -> LowRank:
    """The change of a weight W as its file has W: transposed in GPT-2's Conv1D."""
    if not transposed:
        return change
    return LowRank(A=change.B.T.contiguous(), B=change.A.T.contiguous(), scale=change.scale)


def rounding_loss(change: LowRank, stored: Any, dtype: torch.dtype) -> float:
    """What rounding to ``dtype`` costs: ||exact - rounded||_F / ||change||_F.

    Returns:
        The ratio; infinite where a value overflows, 0 where nothing is added.
    """
    lost = size = 0.0
    for exact, added in _summed(change, stored):
        lost += float((exact - exact.to(dtype).double()).square().sum())
        size += float(added.square().sum())
    return (lost / size) ** 0.5 if size else 0.0


def _summed(change: LowRank, stored: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows of the exact sum, and of what was added, both fp64."""
    A, B = change.exact()
    rows, columns = change.shape
    step = max(1, _BLOCK // columns)
    for start in range(0, rows, step):
        added = B[start : start + step] @ A
        yield stored[start : start + step].double() + added, added
