"""How much two subspaces have in common: the paper's figures 4a and 7, and what chance gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ailora.errors import UserError
from ailora.lab.analysis.changes import Change, FactoredChange, Subspaces, product_subspaces
from ailora.roles.walk import Position, spread

Of = Literal["factors", "update"]
_DRAWS = 200  # random subspaces


@dataclass(frozen=True, kw_only=True)
class Similarity(Position):
    """phi of one projection's left and right singular subspaces with another's.

    Attributes:
        of: ``"factors"``: B A as trained, start included, as the paper's figures have it;
            ``"update"``: dW = B A - B0 A0, what training alone added.
        rank: Number of singular vectors on either side.
        left: phi in the space of outputs (columns of U); None where one side has a lower rank.
        right: phi in the space of inputs (columns of V); likewise.
        random_left: What random subspaces of that size have in the mean, r / m.
        random_right: r / n.
    """

    of: Of
    rank: int
    left: float | None
    right: float | None
    random_left: float
    random_right: float


@dataclass(frozen=True, kw_only=True)
class StartOverlap(Position):
    """phi of the trained factors with the ones that they started from.

    Attributes:
        left: phi of the column spaces of B and B0; None where either has dependent columns.
        right: phi of the row spaces of A and A0; likewise.
    """

    left: float | None
    right: float | None


@dataclass(frozen=True, kw_only=True)
class RandomLevel:
    """phi of two independent random subspaces (Haar) of dimensions a and b in n dimensions.

    Attributes:
        mean: Exact mean, max(a, b) / n.
        low, high: 2.5 % and 97.5 % quantiles of the draws.
    """

    mean: float
    low: float
    high: float


def phi(A: Tensor, B: Tensor) -> float:
    """||A^T B||_F^2 / min(a, b), the mean squared cosine of the principal angles (section 5.3).

    Args:
        A: (n, a), orthonormal columns.
        B: (n, b), orthonormal columns; the paper has a = b = r (Hu et al. 2021, section 7.2, the
            general form).

    Returns:
        Between 0 (orthogonal) and 1 (one contains the other).

    Raises:
        UserError: The two are not of one space, or one is empty.
    """
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[0] or not A.shape[1] * B.shape[1]:
        raise UserError(
            f"phi: shapes {tuple(A.shape)} and {tuple(B.shape)} are not (n, a) and (n, b); "
            "pass orthonormal vectors as columns"
        )
    shared = (A.double().T @ B.double()).square().sum()
    return min(1.0, float(shared) / min(A.shape[1], B.shape[1]))


@cache
def random_level(n: int, a: int, b: int, *, draws: int = _DRAWS, seed: int = 0) -> RandomLevel:
    """What phi is between random subspaces, without which no phi can be called large.

    tr(P Q) of two random projections has the mean a b / n; the quantiles are drawn, with one
    subspace fixed, which changes no distribution.

    Args:
        n: Dimension of the space.
        a: Dimension of one subspace.
        b: Dimension of the other.
        draws: Number of draws for the quantiles.
        seed: Seed of the draws.

    Raises:
        UserError: A subspace larger than the space, or fewer than two draws.
    """
    if not (1 <= a <= n and 1 <= b <= n) or draws < 2:
        raise UserError(
            f"random_level: n={n}, a={a}, b={b}, draws={draws}: needs 1 <= a, b <= n, two draws"
        )
    drawn = _drawn(n, a, b, draws, seed)
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    return RandomLevel(mean=max(a, b) / n, low=low, high=high)


@torch.no_grad()
def similarities(
    changes: Iterable[Change], reference: Iterable[Change], *, of: Of = "factors"
) -> list[Similarity]:
    """Similarity phi of each change with the reference's change of the same projection, by layer.

    The rank is that of the factors; "first r singular vectors" on both sides, as in section 5.3.

    Args:
        changes: Changes by a LoRA (`ailora.lab.analysis.changes.adapter_changes`); those of other
            methods have no factors and no rank of their own and are left out.
        reference: Changes by full fine-tuning; projections that it lacks are left out.
        of: Which part of the adapter is compared, see `Similarity`.
    """
    by_name = {change.place.name: change for change in reference}
    return [
        _similarity(change, by_name[change.place.name], of)
        for change in changes
        if isinstance(change, FactoredChange) and change.place.name in by_name
    ]


@torch.no_grad()
def start_overlaps(changes: Iterable[Change]) -> list[StartOverlap]:
    """How much of the start's subspaces the trained factors kept, where the start is known.

    Plain LoRA keeps no start in its files (and B starts at zero), so it has no rows.
    """
    return [
        StartOverlap(
            **spread(change.place),
            left=_span_overlap(change.update.B, change.update.start[0]),
            right=_span_overlap(change.update.A.T, change.update.start[1].T),
        )
        for change in changes
        if isinstance(change, FactoredChange) and change.update.start is not None
    ]


def _similarity(change: FactoredChange, reference: Change, of: Of) -> Similarity:
    update = change.update
    rank, (m, n) = update.A.shape[0], update.projection.shape
    own = product_subspaces(update.B, update.A, rank) if of == "factors" else change.leading(rank)
    other = reference.leading(rank)
    left, right = (None, None) if own is None or other is None else _both(own, other)
    return Similarity(
        **spread(change.place),
        of=of,
        rank=rank,
        left=left,
        right=right,
        random_left=rank / m,
        random_right=rank / n,
    )


def _both(one: Subspaces, other: Subspaces) -> tuple[float, float]:
    return phi(one.U, other.U.to(one.U)), phi(one.V, other.V.to(one.V))


def _span_overlap(X: Tensor, Y: Tensor) -> float | None:
    """Overlap of two column spaces; None where one has dependent columns."""
    if any(torch.linalg.matrix_rank(Z) < Z.shape[1] for Z in (X, Y)):
        return None
    return phi(torch.linalg.qr(X).Q, torch.linalg.qr(Y).Q)


def _drawn(n: int, a: int, b: int, draws: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    small, large = min(a, b), max(a, b)
    found = []
    for _ in range(draws):
        block = torch.randn(n, small, generator=generator, dtype=torch.float64)
        found.append(torch.linalg.qr(block).Q[:large].square().sum() / small)
    return torch.stack(found)
