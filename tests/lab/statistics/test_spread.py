"""Means, spreads and intervals."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from ailora.errors import UserError
from ailora.lab.statistics import spread

VALUES = [0.70, 0.74, 0.72, 0.71, 0.75]


def test_mean_spread_and_students_interval_by_hand() -> None:
    found = spread(dict(enumerate(VALUES)))
    mean = sum(VALUES) / 5
    sd = math.sqrt(sum((value - mean) ** 2 for value in VALUES) / 4)
    half = 2.7764451052 * sd / math.sqrt(5)  # the 97.5 % point of t with 4 degrees, from a table
    assert (found.n, found.mean, found.sd) == (5, pytest.approx(mean), pytest.approx(sd))
    assert found.sd == pytest.approx(statistics.stdev(VALUES))
    assert found.student == pytest.approx((mean - half, mean + half))


def test_bootstrap_is_scipys_bca_and_the_same_each_time() -> None:
    found = spread(dict(enumerate(VALUES)), seed=3)
    generator = np.random.default_rng(3)
    wanted = stats.bootstrap((VALUES,), np.mean, random_state=generator).confidence_interval
    assert found.bootstrap == pytest.approx(tuple(wanted))
    assert found == spread(dict(enumerate(VALUES)), seed=3)


def test_students_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = {"student": 0, "normal": 0}
    for _ in range(400):
        values = draw.normal(size=5)
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        ours = spread(dict(enumerate(values.tolist()))).student
        assert ours == pytest.approx((low, high))
        half = 1.96 * values.std(ddof=1) / math.sqrt(5)
        hits["student"] += bool(ours is not None and ours[0] <= 0 <= ours[1])
        hits["normal"] += bool(abs(values.mean()) <= half)
    assert 0.92 <= hits["student"] / 400 <= 0.98
    assert hits["normal"] / 400 < 0.92  # the negative control


@pytest.mark.parametrize("values", [[0.7], [0.7, 0.7, 0.7], [0.1 + 0.2, 0.3]])
def test_without_a_spread_there_is_no_interval(values: list[float]) -> None:
    found = spread(dict(enumerate(values)))
    assert found.student is None
    assert found.bootstrap is None
    assert (found.sd is None) == (len(values) == 1)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_named(broken: float) -> None:
    with pytest.raises(UserError, match="lora, seed 7"):
        spread({0: 0.5, 7: broken}, what="lora")


def test_no_scores_are_refused() -> None:
    with pytest.raises(UserError, match="lora: no scores"):
        spread({}, what="lora")
