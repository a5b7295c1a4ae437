"""Weights as points of the plane: the paper's figures 1 (a, b) and 8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from ailora.errors import UserError
from ailora.lab.analysis.changes import Change, FactoredChange
from ailora.roles import RoleName

_BLOCK = 1 << 16  # columns of all points held at once in float64
FEWEST = 4  # points, for which there is a perplexity of at least 1
_USUAL_PERPLEXITY = 30.0  # scikit-learn's

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """One matrix that becomes a point.

    Attributes:
        group: Group that gives its colour: ``"before"``, ``"after"`` or a method's name.
        matrix: ``"W"``, ``"A"`` or ``"B"``.
        role: Role of the projection.
        layer: Layer of the projection.
        values: All entries, flattened, (d,).
    """

    group: str
    matrix: Literal["W", "A", "B"]
    role: RoleName
    layer: int | None
    values: Tensor


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where a point ended up."""

    group: str
    matrix: Literal["W", "A", "B"]
    role: RoleName
    layer: int | None
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Points in the plane.

    Attributes:
        method: ``"tsne"`` or ``"pca"``.
        points: The points, in the order given.
        seed: Seed of t-SNE's start; None for PCA.
        perplexity: Perplexity of t-SNE; None for PCA.
        explained: PCA's share of the variance along x and y; None for t-SNE.
    """

    method: Literal["tsne", "pca"]
    points: tuple[Placed, ...]
    seed: int | None = None
    perplexity: float | None = None
    explained: tuple[float, float] | None = None


@torch.no_grad()
def weight_points(changes: Iterable[Change], role: RoleName) -> list[Point]:
    """W and W + dW of every projection of one role: groups ``"before"`` and ``"after"``.

    Kept in float32, since dW is much larger than its rounding.
    """
    found = []
    for change in (change for change in changes if change.place.role == role):
        W = change.weight()
        for group, matrix in (("before", W), ("after", W + change.matrix())):
            values = matrix.float().flatten()
            place = change.place
            found.append(
                Point(group=group, matrix="W", role=role, layer=place.layer, values=values)
            )
    return found


@torch.no_grad()
def factor_points(
    changes: Iterable[Change], group: str, role: RoleName, matrix: Literal["A", "B"]
) -> list[Point]:
    """The trained A or B of every projection of one role; methods without factors have none.

    Args:
        changes: See `ailora.lab.analysis.changes.adapter_changes`.
        group: The method's name, which the points carry.
        role: Role of the projections.
        matrix: Which factor, ``"A"`` or ``"B"``.
    """
    return [
        Point(
            group=group,
            matrix=matrix,
            role=role,
            layer=change.place.layer,
            values=getattr(change.update, matrix).float().flatten(),
        )
        for change in changes
        if isinstance(change, FactoredChange) and change.place.role == role
    ]


def pca(points: Sequence[Point]) -> Embedding:
    """The first two principal components.

    Raises:
        UserError: Fewer than four points, or points of unequal size.
    """
    fitted = PCA(n_components=2, svd_solver="full")
    placed = fitted.fit_transform(coordinates(points))
    first, second = map(float, np.nan_to_num(fitted.explained_variance_ratio_))
    return Embedding(method="pca", points=_placed(points, placed), explained=(first, second))


def tsne(
    points: Sequence[Point], *, seeds: Sequence[int] = (0, 1, 2), perplexity: float | None = None
) -> list[Embedding]:
    """t-SNE once per seed, exact, from a random start, so that seeds show what is stable.

    Distances between clusters and their sizes mean nothing in a t-SNE picture, and with few points
    neither may the clusters: look at several seeds, and at `pca`.

    Args:
        points: n points.
        seeds: Seeds of the random starts.
        perplexity: Must be below n. None takes scikit-learn's 30, or (n - 1) / 3 if that is less
            (7.7 for the 24 layers of RoBERTa-large); the paper states none.

    Raises:
        UserError: Fewer than four points, points of unequal size, or a perplexity that is not
            above 0 and below n.
    """
    X, count = coordinates(points), len(points)
    wanted = min(_USUAL_PERPLEXITY, (count - 1) / 3) if perplexity is None else perplexity
    if not 0 < wanted < count:
        raise UserError(
            f"tsne: perplexity={wanted:g} for {count} points; it must be above 0 and below their "
            f"number, such as {(count - 1) / 3:.3g}"
        )
    spread_out = X / max(float(np.sqrt((X**2).sum(axis=1).mean())), np.finfo(np.float64).tiny)
    return [
        Embedding(
            method="tsne",
            points=_placed(points, _tsne(spread_out, wanted, seed)),
            seed=seed,
            perplexity=wanted,
        )
        for seed in seeds
    ]


def coordinates(points: Sequence[Point]) -> _Array:
    """The points in at most n dimensions, with the distances that they have in d.

    From the Gram matrix G of the inner products, (n, n): with Q L Q^T = H G H, H the centring
    matrix, the rows of Q L^1/2 are the centred points up to a rotation (classical scaling,
    Torgerson 1952). So a million columns cost one pass, and no PCA.

    Returns:
        (n, n) float64, centred, columns by falling variance.

    Raises:
        UserError: Fewer than four points, or points of unequal size.
    """
    sizes = {point.values.numel() for point in points}
    if len(points) < FEWEST or len(sizes) > 1:
        raise UserError(
            f"an embedding needs at least {FEWEST} points of one size, got {len(points)} of sizes "
            f"{sorted(sizes)}; embed roles and factors of different shapes separately"
        )
    values, vectors = np.linalg.eigh(_centred_gram([point.values for point in points]))
    X: _Array = vectors[:, ::-1] * np.sqrt(np.clip(values[::-1], 0, None))
    return X


def _centred_gram(rows: Sequence[Tensor]) -> _Array:
    """H G H, summed over blocks of columns; centred first, so that no large mean cancels."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows[0].numel(), _BLOCK):
        block = torch.stack([row[start : start + _BLOCK].cpu().double() for row in rows])
        block -= block.mean(dim=0)
        gram += block @ block.T
    found: _Array = gram.numpy()
    return found


def _tsne(X: _Array, perplexity: float, seed: int) -> _Array:
    placed: _Array = TSNE(
        n_components=2, perplexity=perplexity, init="random", method="exact", random_state=seed
    ).fit_transform(X)
    return placed


def _placed(points: Sequence[Point], where: _Array) -> tuple[Placed, ...]:
    return tuple(
        Placed(
            group=point.group,
            matrix=point.matrix,
            role=point.role,
            layer=point.layer,
            x=float(x),
            y=float(y),
        )
        for point, (x, y) in zip(points, where, strict=True)
    )
