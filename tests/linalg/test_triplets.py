"""The distance of two subspaces, against angles that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from ailora.errors import UserError
from ailora.linalg import subspace_distance
from tests.linalg.spectra import orthonormal


@pytest.mark.parametrize("angle", [1e-14, 1e-11, 1e-8, 1e-3, 0.5, math.pi / 2])
def test_a_known_angle_is_measured(angle: float) -> None:
    Q = orthonormal(30, 3, seed=0)
    turned = torch.stack([math.cos(angle) * Q[:, 0] + math.sin(angle) * Q[:, 2], Q[:, 1]], dim=1)
    assert subspace_distance(Q[:, :2], turned) == pytest.approx(
        math.sin(angle), rel=1e-2, abs=1e-15
    )


def test_it_agrees_with_scipy_and_with_the_projectors() -> None:
    A, B = orthonormal(20, 4, seed=1), orthonormal(20, 4, seed=2)
    distance = subspace_distance(A, B)
    assert distance == pytest.approx(math.sin(subspace_angles(A.numpy(), B.numpy()).max()))
    projectors = (A @ A.T - B @ B.T).numpy()
    assert distance == pytest.approx(np.linalg.norm(projectors, 2))


def test_the_basis_of_a_subspace_does_not_matter() -> None:
    A = orthonormal(20, 3, seed=1)
    mixed = A @ torch.tensor([[2.0, 1, 0], [0, -1, 0], [5, 0, 0.1]], dtype=torch.float64)
    assert subspace_distance(A, mixed) < 1e-14


def test_an_empty_subspace_is_at_distance_zero() -> None:
    assert subspace_distance(torch.zeros(5, 0), torch.zeros(5, 0)) == 0.0


@pytest.mark.parametrize("shapes", [((5, 2), (5, 3)), ((5, 2), (4, 2)), ((2, 5), (2, 5))])
def test_shapes_that_do_not_fit_are_named(shapes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UserError, match=r"not both \(n, r\)") as error:
        subspace_distance(*(torch.ones(s) for s in shapes))
    assert str(shapes[1]) in str(error.value)
