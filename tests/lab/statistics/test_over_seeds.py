"""Means and spreads over seeds, intervals, and differences paired by seed."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from ailora.errors import UserError
from ailora.lab.statistics import paired, spread, student_interval

VALUES = [0.70, 0.74, 0.72, 0.71, 0.75]
LORA = [0.70, 0.74, 0.72, 0.71, 0.75, 0.61]
AILORA = [0.73, 0.75, 0.76, 0.72, 0.77, 0.60]
BOTH = {"lora": dict(enumerate(LORA)), "ailora": dict(enumerate(AILORA))}
DIFFERENCES = [a - b for a, b in zip(AILORA, LORA, strict=True)]


def test_difference_and_students_interval_by_hand() -> None:
    found = paired(BOTH, "lora")["ailora"]
    mean = sum(DIFFERENCES) / 6
    se = math.sqrt(sum((d - mean) ** 2 for d in DIFFERENCES) / 5 / 6)
    half = stats.t.ppf(0.975, 5) * se
    assert (found.n, found.baseline) == (6, "lora")
    assert found.difference == pytest.approx(mean)
    assert found.student == pytest.approx((mean - half, mean + half))


def test_pairs_are_found_by_seed_and_not_by_position() -> None:
    reversed_order = {**BOTH, "ailora": dict(reversed(BOTH["ailora"].items()))}
    assert paired(reversed_order, "lora") == paired(BOTH, "lora")


def test_shuffled_pairing_changes_the_interval_but_not_the_mean() -> None:
    # The negative control: were seeds ignored, nothing would change.
    shuffled = {**BOTH, "ailora": dict(enumerate(AILORA[3:] + AILORA[:3]))}
    right, wrong = paired(BOTH, "lora")["ailora"], paired(shuffled, "lora")["ailora"]
    assert right.difference == pytest.approx(wrong.difference)
    assert right.student is not None
    assert wrong.student is not None
    assert wrong.student[1] - wrong.student[0] > 3 * (right.student[1] - right.student[0])
    assert wrong.permutation_p != right.permutation_p


def test_permutation_p_is_that_of_all_signs_counted_by_hand() -> None:
    # Two differences are 0.01 and one is -0.01, but for rounding.
    ties = [0.03, 0.01, 0.04, 0.01, 0.02, -0.01]
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, ties, strict=True)))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    by_hand = sum(total >= abs(sum(ties)) - 1e-12 for total in sums) / 64
    assert paired(BOTH, "lora")["ailora"].permutation_p == pytest.approx(by_hand)


def test_many_pairs_draw_their_signs_the_same_each_time() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(size=40)
    scores = {
        "lora": dict(enumerate(base.tolist())),
        "ailora": dict(enumerate((base + 0.2 + draw.normal(size=40)).tolist())),
    }
    found = paired(scores, "lora", seed=1)["ailora"]
    assert found == paired(scores, "lora", seed=1)["ailora"]
    differences = list(np.subtract(list(scores["ailora"].values()), base))
    assert found.permutation_p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_below_five_pairs_there_is_no_p_and_no_conclusion() -> None:
    few = {
        "lora": dict.fromkeys(range(4), 0.5),
        "ailora": {seed: 0.9 + seed / 1000 for seed in range(4)},
    }
    found = paired(few, "lora")["ailora"]
    assert found.permutation_p is None
    assert found.verdict("LoRA") == "n = 4: too few to conclude anything"


def test_five_seeds_cannot_reach_five_percent() -> None:
    five = {
        "lora": dict.fromkeys(range(5), 0.5),
        "ailora": {seed: 0.9 + seed / 1000 for seed in range(5)},
    }
    found = paired(five, "lora")["ailora"]
    assert found.smallest_p == 0.0625
    assert found.permutation_p == pytest.approx(found.smallest_p)
    assert found.verdict("LoRA") == "above LoRA"  # Student's interval is what speaks


def test_seeds_of_one_alone_do_not_count() -> None:
    found = paired({"lora": {0: 0.5, 1: 0.6}, "ailora": {1: 0.7, 2: 0.9}}, "lora")["ailora"]
    assert found.n == 1
    assert found.difference == pytest.approx(0.1)
    assert found.student is None


def test_without_a_common_seed_there_is_no_difference() -> None:
    found = paired({"lora": {0: 0.5}, "ailora": {1: 0.7}}, "lora")["ailora"]
    assert (found.n, found.difference, found.smallest_p) == (0, None, 1.0)
    assert "n = 0" in found.verdict("LoRA")


def test_equal_differences_are_no_certainty() -> None:
    # 0.1 + 0.2 - 0.2 and the like: equal but for rounding.
    shifted = {**BOTH, "ailora": {seed: score + 0.01 for seed, score in BOTH["lora"].items()}}
    found = paired(shifted, "lora")["ailora"]
    assert found.student is None
    assert found.verdict("LoRA") == "all differences equal: no interval"


def test_no_difference_at_all_has_p_one() -> None:
    found = paired({"lora": BOTH["lora"], "ailora": BOTH["lora"]}, "lora")["ailora"]
    assert (found.difference, found.permutation_p) == (0.0, 1.0)


@pytest.mark.parametrize(("high", "words"), [(0.02, "no difference shown"), (-0.05, "below LoRA")])
def test_the_interval_decides_the_words(high: float, words: str) -> None:
    moved = {
        seed: score + (high if high < 0 else high * (-1) ** seed) + seed / 1000
        for seed, score in BOTH["lora"].items()
    }
    found = paired({"lora": BOTH["lora"], "x": moved}, "lora")["x"]
    assert found.verdict("LoRA") == words


def test_a_baseline_without_scores_and_a_broken_score_are_named() -> None:
    with pytest.raises(UserError, match="'full'; there are lora, ailora"):
        paired(BOTH, "full")
    with pytest.raises(UserError, match="pissa, seed 0"):
        paired({**BOTH, "pissa": {0: float("nan")}}, "lora")


def test_mean_spread_and_students_interval_by_hand() -> None:
    found = spread(dict(enumerate(VALUES)))
    mean = sum(VALUES) / 5
    sd = math.sqrt(sum((value - mean) ** 2 for value in VALUES) / 4)
    half = 2.7764451052 * sd / math.sqrt(5)  # the 97.5 % point of t with 4 degrees, from a table
    assert (found.n, found.mean, found.sd) == (5, pytest.approx(mean), pytest.approx(sd))
    assert found.sd == pytest.approx(statistics.stdev(VALUES))
    assert student_interval(VALUES) == pytest.approx((mean - half, mean + half))


def test_students_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = {"student": 0, "normal": 0}
    for _ in range(400):
        values = draw.normal(size=5)
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        ours = student_interval(values.tolist())
        assert ours == pytest.approx((low, high))
        half = 1.96 * values.std(ddof=1) / math.sqrt(5)
        hits["student"] += bool(ours is not None and ours[0] <= 0 <= ours[1])
        hits["normal"] += bool(abs(values.mean()) <= half)
    assert 0.92 <= hits["student"] / 400 <= 0.98
    assert hits["normal"] / 400 < 0.92  # the negative control


@pytest.mark.parametrize("values", [[0.7], [0.7, 0.7, 0.7], [0.1 + 0.2, 0.3]])
def test_without_a_spread_there_is_no_interval(values: list[float]) -> None:
    found = spread(dict(enumerate(values)))
    assert student_interval(values) is None
    assert (found.sd is None) == (len(values) == 1)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_named(broken: float) -> None:
    with pytest.raises(UserError, match="lora, seed 7"):
        spread({0: 0.5, 7: broken}, what="lora")


def test_no_scores_are_refused() -> None:
    with pytest.raises(UserError, match="lora: no scores"):
        spread({}, what="lora")
