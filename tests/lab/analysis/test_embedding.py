"""Planted groups come apart, one group does not; and the Gram route is PCA of the columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import Tensor

from ailora.errors import UserError
from ailora.lab.analysis.changes import adapter_changes
from ailora.lab.analysis.embedding import (
    Embedding,
    Point,
    coordinates,
    factor_points,
    pca,
    tsne,
    weight_points,
)
from tests.lab.analysis.models import adapted


def _points(values: Tensor) -> list[Point]:
    half = len(values) // 2
    return [
        Point(group="ab"[i >= half], matrix="W", role="q", layer=i % half, values=row)
        for i, row in enumerate(values)
    ]


def _cloud(count: int, size: int, *, apart: float = 0.0) -> list[Point]:
    """Isotropic points; those of the second half moved by `apart` standard deviations."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, size, generator=generator, dtype=torch.float64)
    values[count // 2 :, 0] += apart
    return _points(values)


def _separation(found: Embedding) -> float:
    where = np.array([(point.x, point.y) for point in found.points])
    return float(silhouette_score(where, [point.group for point in found.points]))


def test_two_planted_groups_come_apart_in_every_seed_and_in_pca() -> None:
    points = _cloud(24, 200, apart=60.0)
    found = tsne(points, seeds=(0, 1, 2))
    assert min(_separation(one) for one in found) > 0.5
    assert _separation(pca(points)) > 0.5


def test_one_isotropic_group_shows_none() -> None:
    points = _cloud(24, 200)
    assert abs(_separation(pca(points))) < 0.15
    assert max(abs(_separation(one)) for one in tsne(points)) < 0.3


def test_the_gram_route_is_the_pca_of_all_columns() -> None:
    points = _cloud(15, 300, apart=5.0)
    X = np.stack([point.values.numpy() for point in points]) + 1000.0
    shifted = _points(torch.from_numpy(X))
    reference = PCA(n_components=2, svd_solver="full").fit(X)
    found = pca(shifted)
    where = np.array([(point.x, point.y) for point in found.points])
    expected = reference.transform(X)
    for column in range(2):
        sign = np.sign(where[:, column] @ expected[:, column])
        np.testing.assert_allclose(sign * where[:, column], expected[:, column], atol=1e-6)
    np.testing.assert_allclose(found.explained, reference.explained_variance_ratio_, rtol=1e-8)


def test_coordinates_keep_every_distance_however_many_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = _cloud(6, 101)
    X = np.stack([point.values.numpy() for point in points])
    exact = np.linalg.norm(X[:, None] - X[None], axis=-1)
    for block in (1 << 16, 10):
        monkeypatch.setattr("ailora.lab.analysis.embedding._BLOCK", block)
        Z = coordinates(points)
        np.testing.assert_allclose(np.linalg.norm(Z[:, None] - Z[None], axis=-1), exact, atol=1e-9)


def test_a_seed_gives_the_same_picture_again_and_another_seed_another() -> None:
    points = _cloud(12, 30)
    first, second = tsne(points, seeds=(3, 4))
    assert tsne(points, seeds=(3,))[0] == first
    assert first.points != second.points
    assert first.seed == 3


def test_perplexity_is_below_the_number_of_points() -> None:
    points = _cloud(24, 30)
    assert tsne(points, seeds=(0,))[0].perplexity == pytest.approx(23 / 3)
    assert tsne(points, seeds=(0,), perplexity=5)[0].perplexity == 5
    for wrong in (24, 0, float("nan")):
        with pytest.raises(UserError, match="perplexity"):
            tsne(points, perplexity=wrong)


def test_too_few_points_and_unequal_ones_are_refused() -> None:
    with pytest.raises(UserError, match="at least 4 points"):
        pca(_cloud(2, 10))
    with pytest.raises(UserError, match="of one size"):
        pca([*_cloud(4, 10), *_cloud(4, 11)])


def test_weights_before_and_after_and_trained_factors_become_points() -> None:
    base, model = adapted("ailora")
    changes = adapter_changes(model)
    weights = weight_points(changes, "q")
    assert [(p.group, p.layer) for p in weights] == [
        ("before", 0),
        ("after", 0),
        ("before", 1),
        ("after", 1),
    ]
    query = base.bert.encoder.layer[1].attention.self.query.weight.detach()
    torch.testing.assert_close(weights[2].values, query.float().flatten())
    merged = model.merge_and_unload().bert.encoder.layer[1].attention.self.query.weight
    torch.testing.assert_close(weights[3].values, merged.detach().float().flatten())
    factors = factor_points(changes, "AILoRA", "v", "B")
    assert {(p.group, p.matrix, p.role, p.values.shape) for p in factors} == {
        ("AILoRA", "B", "v", (64,))
    }
    with pytest.raises(UserError, match="4 points"):
        pca(factors)
