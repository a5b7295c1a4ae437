"""A change of a weight as two thin matrices and a scale."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """dW = scale B A, never built.

    Attributes:
        A: (k, n), as stored.
        B: (m, k), as stored.
        scale: s.
    """

    A: Tensor = field(repr=False)
    B: Tensor = field(repr=False)
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """k, an upper bound of the rank of dW."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.B.shape[0], self.A.shape[1]

    def exact(self) -> tuple[Tensor, Tensor]:
        """A and s B, fp64."""
        return self.A.double(), self.B.double() * self.scale

    def matrix(self) -> Tensor:
        """The product dW itself (m, n), fp64."""
        A, B = self.exact()
        return B @ A

    def norm(self) -> Tensor:
        """||dW||_F by two thin QRs: Gram matrices square the error."""
        A, B = self.exact()
        norm: Tensor = torch.linalg.norm(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
        return norm
