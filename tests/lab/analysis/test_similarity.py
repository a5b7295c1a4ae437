"""phi against angles that are planted, SciPy, and the exact moments of random subspaces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import beta

from ailora.errors import UserError
from ailora.lab.analysis.changes import adapter_changes
from ailora.lab.analysis.similarity import phi, random_level, similarities, start_overlaps
from tests.lab.analysis.models import adapted, planted
from tests.linalg.spectra import orthonormal


def test_known_angles() -> None:
    Q = orthonormal(30, 6, 0)
    assert phi(Q[:, :3], Q[:, :3]) == pytest.approx(1, abs=1e-12)
    assert phi(Q[:, :3], Q[:, 3:]) == pytest.approx(0, abs=1e-12)
    turned = math.cos(0.4) * Q[:, :3] + math.sin(0.4) * Q[:, 3:]
    assert phi(Q[:, :3], turned) == pytest.approx(math.cos(0.4) ** 2, rel=1e-12)


def test_it_is_the_mean_squared_cosine_of_scipys_angles_and_blind_to_the_basis() -> None:
    A, B = orthonormal(20, 4, 1), orthonormal(20, 2, 2)
    angles = subspace_angles(A.numpy(), B.numpy())
    assert phi(A, B) == pytest.approx(float(np.mean(np.cos(angles) ** 2)), rel=1e-12)
    assert phi(A @ orthonormal(4, 4, 3), B) == pytest.approx(phi(A, B), rel=1e-12)
    assert phi(A, A[:, :2]) == pytest.approx(1, abs=1e-12)


def test_the_random_level_has_the_exact_mean_and_quantiles() -> None:
    """One dimension each: phi is Beta(1/2, (n - 1) / 2); else the draws have to agree."""
    one = random_level(10, 1, 1, draws=4000)
    exact = beta(0.5, 4.5)
    assert one.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert one.high == pytest.approx(exact.ppf(0.975), rel=0.1)
    several = random_level(64, 8, 4)
    drawn = [phi(orthonormal(64, 8, s), orthonormal(64, 4, 1000 + s)) for s in range(300)]
    assert several.mean == 8 / 64
    assert np.mean(drawn) == pytest.approx(several.mean, rel=0.05)
    assert np.mean([several.low <= value <= several.high for value in drawn]) > 0.9


def test_the_draws_are_seeded_and_leave_the_global_state_alone() -> None:
    state = torch.get_rng_state()
    first = random_level(33, 3, 3, draws=50, seed=5)
    random_level.cache_clear()
    assert random_level(33, 3, 3, draws=50, seed=5) == first
    assert random_level(33, 3, 3, draws=50, seed=6) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_reference_with_the_very_update_is_1_and_another_near_chance() -> None:
    _, model = adapted("ailora")
    changes = adapter_changes(model)
    first = changes[0]
    own = similarities([first], planted(first.matrix()), of="update")[0]
    assert own.left == pytest.approx(1, abs=1e-9)
    assert own.right == pytest.approx(1, abs=1e-9)
    assert own.random_left == own.random_right == 2 / 32
    found = []
    for seed in range(20):
        other = orthonormal(32, 2, seed) @ orthonormal(32, 2, 50 + seed).T
        found.append(similarities([first], planted(other), of="update")[0].left or 0.0)
    assert np.mean(found) == pytest.approx(2 / 32, abs=0.03)


def test_the_start_counts_for_the_factors_and_not_for_the_update() -> None:
    """A reference that is W's own principal part: PiSSA's factors lie in it, its update not."""
    _, model = adapted("pissa", steps=1)
    first = adapter_changes(model)[0]
    U, _, Vt = torch.linalg.svd(first.weight())
    part = planted(U[:, :2] @ Vt[:2])
    factors = similarities([first], part, of="factors")[0]
    update = similarities([first], part, of="update")[0]
    assert factors.left is not None
    assert factors.left > 0.9
    assert update.left is not None
    assert update.left < 0.9


def test_a_weight_that_did_not_move_has_no_similarity() -> None:
    _, model = adapted("ailora")
    rows = similarities(adapter_changes(model), planted(torch.zeros(32, 32)))
    assert len(rows) == 4
    assert {row.left for row in rows} == {None}


def test_the_start_is_kept_whole_before_training_and_less_after() -> None:
    untrained = start_overlaps(adapter_changes(adapted("ailora", steps=0)[1]))
    assert len(untrained) == 4
    assert min(min(row.left or 0, row.right or 0) for row in untrained) > 1 - 1e-9
    for form in ("anchored", "folded"):
        _, model = adapted("ailora", anchored=form == "anchored", steps=5)
        changes = adapter_changes(model)
        row = start_overlaps(changes)[0]
        B, B0 = changes[0].update.B.numpy(), changes[0].update.start[0].numpy()
        cosines = np.cos(subspace_angles(B, B0))
        assert row.left == pytest.approx(float(np.mean(cosines**2)), rel=1e-9)
        assert row.left < 1 - 1e-3


def test_plain_lora_has_no_start_to_compare_with() -> None:
    assert start_overlaps(adapter_changes(adapted("lora")[1])) == []


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 0), (3, 2))])
def test_what_is_no_pair_of_subspaces_is_refused(
    shapes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    with pytest.raises(UserError, match="phi: shapes"):
        phi(*(torch.zeros(shape) for shape in shapes))


def test_a_subspace_above_the_space_is_refused() -> None:
    with pytest.raises(UserError, match="random_level"):
        random_level(4, 5, 1)
