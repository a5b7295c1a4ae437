"""Intruder dimensions: leading directions of a tuned weight that the pre-trained one has not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ailora.errors import UserError
from ailora.lab.analysis.changes import Change
from ailora.linalg import decompose
from ailora.roles.position import Position, spread


@dataclass(frozen=True, kw_only=True)
class Intruders(Position):
    """The leading singular vectors of W + dW of one projection, beside those of W.

    Attributes:
        cosines: For each of the first k left singular vectors of W + dW, the largest |cos| with
            any left singular vector of W, in order of falling singular value.
        epsilon: A vector whose cosine is below is an intruder.
    """

    cosines: tuple[float, ...]
    epsilon: float

    @property
    def count(self) -> int:
        """Number of intruders among the k."""
        return sum(cosine < self.epsilon for cosine in self.cosines)


@torch.no_grad()
def intruders(changes: Iterable[Change], *, k: int = 10, epsilon: float = 0.5) -> list[Intruders]:
    """Intruder dimensions of each tuned weight (Shuttleworth et al. 2024, arXiv 2410.21228).

    All left singular vectors of W are needed, so this is a full SVD a weight: a second at
    1024 x 1024, a minute or more at 4096 x 4096. Where singular values of W coincide its vectors
    are not unique, and a mere rotation among them can look like an intruder.

    Args:
        changes: See `ailora.lab.analysis.changes`.
        k: How many leading vectors of W + dW are looked at, at most min(m, n).
        epsilon: Threshold of the cosine, in (0, 1].

    Raises:
        UserError: k or epsilon out of range.
    """
    if k < 1 or not 0 < epsilon <= 1:
        raise UserError(f"intruders: k={k}, epsilon={epsilon}: needs k >= 1 and 0 < epsilon <= 1")
    return [
        Intruders(
            **spread(change.place),
            cosines=tuple(nearest_cosines(W, W + change.matrix(), k).tolist()),
            epsilon=epsilon,
        )
        for change in changes
        for W in (change.weight(),)
    ]


def nearest_cosines(before: Tensor, after: Tensor, k: int) -> Tensor:
    """max_i |u'_j . u_i| for the first k left singular vectors u'_j of a tuned weight.

    Args:
        before: W, (m, n) float64.
        after: W + dW, (m, n) float64.
        k: At most min(m, n) are taken.

    Returns:
        (k,) float64, between 0 and 1.
    """
    U: Tensor = torch.linalg.svd(before, full_matrices=False).U
    new = decompose(after, min(k, *after.shape), "principal").U.to(U)
    return (new.T @ U).abs().amax(dim=1).clamp(max=1.0)
