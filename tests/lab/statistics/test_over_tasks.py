"""Several tasks at once: Holm's correction, average ranks, Friedman, Nemenyi."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ailora.errors import UserError
from ailora.lab.statistics import holm, rank_over_tasks


def test_holm_of_a_case_worked_out_by_hand() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 -> the last may not be below the one before.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]


def test_holm_stops_at_one_and_leaves_a_single_test_alone() -> None:
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.2}) == {"a": 0.2}
    assert holm({}) == {}


def test_holm_keeps_false_rejections_rare_and_uncorrected_tests_do_not() -> None:
    draw = np.random.default_rng(0)
    trials = draw.uniform(size=(2000, 8))  # eight true null hypotheses a trial
    corrected = [min(holm(dict(zip("abcdefgh", row, strict=True))).values()) for row in trials]
    assert np.mean(np.array(corrected) <= 0.05) < 0.065
    assert np.mean(trials.min(axis=1) <= 0.05) > 0.25  # 1 - 0.95^8 = 0.34


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p(p: float) -> None:
    with pytest.raises(UserError, match="rte: p ="):
        holm({"rte": p})


def table(rows: list[list[float]]) -> dict[str, dict[str, float]]:
    return {f"task{i}": dict(zip("abcd", row, strict=False)) for i, row in enumerate(rows)}


def test_average_ranks_with_ties_by_hand() -> None:
    found = rank_over_tasks(table([[0.9, 0.8, 0.7], [0.8, 0.8, 0.9], [0.5, 0.4, 0.4]]))
    # a: 1, 2.5, 1; b: 2, 2.5, 2.5; c: 3, 1, 2.5
    assert found.average == pytest.approx({"a": 1.5, "c": 6.5 / 3, "b": 7 / 3})
    assert list(found.average) == ["a", "c", "b"]


def test_ties_that_rounding_hides_are_ties() -> None:
    found = rank_over_tasks(table([[0.1 + 0.2, 0.3, 0.0]]))
    assert found.average == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_friedman_is_scipys_of_the_columns() -> None:
    better = np.array([0, 0, 0, 1.5])
    rows = np.random.default_rng(0).normal(size=(8, 4)) + better
    found = rank_over_tasks(table(rows.tolist()))
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*rows.T).pvalue)
    assert found.friedman_p < 0.05
    control = rank_over_tasks(table((rows - better).tolist())).friedman_p
    assert control is not None
    assert control > 0.05


def test_critical_difference_is_that_of_demsars_example() -> None:
    # Demšar 2006, section 3.2.2: four classifiers, 14 data sets, q = 2.569, CD = 1.25.
    rows = np.random.default_rng(0).normal(size=(14, 4))
    found = rank_over_tasks(table(rows.tolist())).critical_difference
    assert found == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert found == pytest.approx(1.25, abs=0.005)


def test_few_tasks_conclude_nothing() -> None:
    found = rank_over_tasks(table([[0.9, 0.8, 0.7]] * 4))
    assert found.friedman_p is None
    assert found.critical_difference is None
    assert found.tasks == 4


def test_all_tied_has_no_p() -> None:
    assert rank_over_tasks(table([[0.5, 0.5, 0.5]] * 6)).friedman_p is None


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({}, "at least one task"),
        ({"rte": {"a": 1.0}}, "two settings"),
        ({"rte": {"a": 1.0, "b": 0.5}, "cola": {"a": 1.0}}, "cola: 'b' is not on every task"),
        ({"rte": {"a": 1.0, "b": float("nan")}}, "rte: a mean is no finite number"),
    ],
)
def test_what_cannot_be_ranked_is_named(means: dict[str, dict[str, float]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        rank_over_tasks(means)
