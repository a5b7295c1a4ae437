"""Differences over seeds, and over seeds and rows: by hand, and as often right as they say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from ailora.errors import UserError
from ailora.lab.statistics import detectable, seed_and_row_difference, seed_difference

DRAWS = 1000
Table = npt.NDArray[np.float64]


def drawn(
    rng: np.random.Generator, seeds: int, *, of_seeds: float, of_rows: float, rows: int = 200
) -> Table:
    """Differences whose true mean is 0."""
    own = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_rows, rows)
    return np.asarray(own + rng.normal(0, 0.4, (seeds, rows)))


def test_over_seeds_is_scipys_t() -> None:
    values = [0.03, 0.01, 0.04, -0.01, 0.02]
    found, known = seed_difference(values), stats.ttest_1samp(values, 0)
    assert found is not None
    assert (found.n, found.estimate, found.p) == (5, pytest.approx(0.018), known.pvalue)
    assert found.interval() == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_over_seeds_and_rows_by_hand() -> None:
    # Mean squares of a table of 3 x 2 counted on paper: 1/2 of seeds, 1/6 of rows, 1/6 left.
    found = seed_and_row_difference([[1, 0], [0, 0], [1, 1]])
    assert found is not None
    assert found.estimate == pytest.approx(0.5)
    assert found.se == pytest.approx(math.sqrt((1 / 2 + 0) / 6))
    assert found.df == pytest.approx(2)
    # Rows that differ more than chance widen it: 1/3 of seeds, 3/2 of rows, 1/2 - 1/6 left.
    wider = seed_and_row_difference([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    assert wider is not None
    ms_seeds, ms_rows, ms_left = 1 / 9, 7 / 9, 1 / 9
    assert wider.se == pytest.approx(math.sqrt((ms_seeds + ms_rows - ms_left) / 9))
    assert wider.df == pytest.approx(2 * (1 + (ms_rows - ms_left) / ms_seeds) ** 2)


def test_rows_without_an_effect_leave_what_the_seeds_say() -> None:
    table = drawn(np.random.default_rng(1), 6, of_seeds=0.1, of_rows=0.0)
    both, alone = seed_and_row_difference(table), seed_difference(table.mean(axis=1).tolist())
    assert both is not None
    assert alone is not None
    assert both.estimate == pytest.approx(alone.estimate)
    assert both.se == pytest.approx(alone.se, rel=0.02)


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(("of_seeds", "of_rows"), [(0.02, 0.0), (0.02, 0.2), (0.05, 0.1)])
def test_no_true_difference_is_rejected_at_five_percent(
    seeds: int, of_seeds: float, of_rows: float
) -> None:
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(DRAWS):
        found = seed_and_row_difference(drawn(rng, seeds, of_seeds=of_seeds, of_rows=of_rows))
        rejected += found is not None and found.p <= 0.05
    assert 0.03 <= rejected / DRAWS <= 0.07


def test_seeds_alone_reject_too_often_where_rows_differ() -> None:
    # The negative control: what holds for these rows is not what holds for others.
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(DRAWS):
        table = drawn(rng, 10, of_seeds=0.02, of_rows=0.2)
        found = seed_difference(table.mean(axis=1).tolist())
        rejected += found is not None and found.p <= 0.05
    assert rejected / DRAWS > 0.12


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_smallest_difference_is_found_in_eighty_of_a_hundred(seeds: int) -> None:
    rng, alone, both = np.random.default_rng(0), 0, 0
    for _ in range(DRAWS):
        table = drawn(rng, seeds, of_seeds=0.03, of_rows=0.15)
        found = seed_and_row_difference(table)
        assert found is not None
        both += _is_found(found.estimate + found.smallest(), found.se, found.df)
        values = rng.normal(0, 0.03, seeds)
        own = seed_difference(values.tolist())
        assert own is not None
        moved = seed_difference((values + own.smallest()).tolist())
        alone += moved is not None and moved.p <= 0.05
    assert 0.77 <= alone / DRAWS <= 0.83
    assert 0.77 <= both / DRAWS <= 0.84


def _is_found(estimate: float, se: float, df: float) -> bool:
    return bool(2 * stats.t.sf(abs(estimate) / se, df) <= 0.05)


def test_detectable_is_two_points_of_student_and_shrinks_with_the_level() -> None:
    # 2.776 and 0.941, from a table of t with 4 degrees of freedom.
    assert detectable(4) == pytest.approx(2.776 + 0.941, abs=1e-3)
    assert detectable(math.inf) == pytest.approx(1.960 + 0.842, abs=1e-3)
    assert detectable(4, alpha=0.05 / 4) > detectable(4)


def test_too_few_and_no_spread_give_no_interval() -> None:
    assert seed_difference([0.1]) is None
    assert seed_difference([0.1 + 0.2 - 0.2, 0.1]) is None
    assert seed_and_row_difference([[1, 0], [0, 1]]) is None  # two seeds reject too often
    assert seed_and_row_difference(np.zeros((5, 10))) is None


def test_only_rows_that_differ_leave_the_normal_distribution() -> None:
    found = seed_and_row_difference(np.tile([1.0, 0.0, 0.0, -1.0, 0.0], (4, 1)))
    assert found is not None
    assert found.df == math.inf
    assert math.isfinite(found.interval()[0])


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="no finite number"):
        seed_difference([0.1, float("nan")])
    with pytest.raises(UserError, match=r"shape \(3,\)"):
        seed_and_row_difference([1, 2, 3])
