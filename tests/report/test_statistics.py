import math

import pytest
from scipy import stats

from ailora.report.statistics import summarize
from tests.report.runs import comparison, run

LORA = [0.70, 0.74, 0.72, 0.71, 0.75]
AILORA = [0.73, 0.75, 0.76, 0.72, 0.77]


def _of(method, summaries):
    return next(summary for summary in summaries if summary.method == method)


def test_mean_and_spread_are_those_worked_out_by_hand():
    runs = [run("lora", seed, score) for seed, score in enumerate([0.6, 0.8])]
    summary = _of("lora", summarize(comparison(runs)))
    assert summary.mean == pytest.approx(0.7)
    assert summary.sd == pytest.approx(math.sqrt(0.02))  # n - 1 in the denominator
    assert summary.n == 2


def test_interval_is_students_of_differences_paired_by_seed():
    runs = [run("lora", seed, score) for seed, score in enumerate(LORA)]
    # In another order: pairs must be found by seed, not by position.
    runs += [run("ailora", seed, AILORA[seed]) for seed in (3, 0, 4, 1, 2)]
    summary = _of("ailora", summarize(comparison(runs)))
    differences = [a - b for a, b in zip(AILORA, LORA, strict=True)]
    mean = sum(differences) / 5
    se = math.sqrt(sum((d - mean) ** 2 for d in differences) / 4 / 5)
    half = stats.t.ppf(0.975, 4) * se
    assert summary.difference == pytest.approx(mean)
    assert summary.interval == pytest.approx((mean - half, mean + half))
    assert summary.verdict == "above LoRA"


def test_unpaired_seeds_do_not_count_as_pairs():
    runs = [run("lora", 0, 0.5), run("lora", 1, 0.6), run("ailora", 1, 0.7), run("ailora", 2, 0.9)]
    summary = _of("ailora", summarize(comparison(runs)))
    assert summary.pairs == 1
    assert summary.difference == pytest.approx(0.1)
    assert summary.interval is None


def test_an_interval_around_zero_shows_no_difference():
    runs = [run("lora", seed, score) for seed, score in enumerate(LORA)]
    runs += [run("pissa", s, score + (-1) ** s * 0.02) for s, score in enumerate(LORA)]
    assert _of("pissa", summarize(comparison(runs))).verdict == "no difference shown"


def test_few_seeds_conclude_nothing_however_large_the_difference():
    runs = [run("lora", seed, 0.5) for seed in range(4)]
    runs += [run("ailora", seed, 0.9) for seed in range(4)]
    assert "too few" in _of("ailora", summarize(comparison(runs))).verdict


def test_without_lora_there_is_no_difference():
    summary = summarize(comparison([run("ailora", 0, 0.9), run("pissa", 0, 0.8)]))[0]
    assert summary.difference is None
    assert summary.verdict == ""


def test_one_seed_has_no_spread():
    assert summarize(comparison([run("lora", 0, 0.9)]))[0].sd is None


def test_equal_differences_are_no_certainty():
    # 0.1 + 0.2 - 0.2 and the like: equal but for rounding.
    runs = [run("lora", seed, score) for seed, score in enumerate(LORA)]
    runs += [run("ailora", seed, score + 0.01) for seed, score in enumerate(LORA)]
    summary = _of("ailora", summarize(comparison(runs)))
    assert summary.interval is None
    assert "no interval" in summary.verdict
