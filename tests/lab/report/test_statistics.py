"""What the report tells of the statistics; the numbers have their tests in tests/statistics."""

from __future__ import annotations

import math

import pytest

from ailora.lab.report.statistics import Summary, summarize
from tests.lab.report.runs import comparison, run

LORA = [0.70, 0.74, 0.72, 0.71, 0.75]
AILORA = [0.73, 0.75, 0.76, 0.72, 0.77]


def _of(method: str, summaries: list[Summary]) -> Summary:
    return next(summary for summary in summaries if summary.method == method)


def test_mean_and_spread_are_those_worked_out_by_hand() -> None:
    runs = [run("lora", seed, score) for seed, score in enumerate([0.6, 0.8])]
    summary = _of("lora", summarize(comparison(runs)))
    assert summary.spread.mean == pytest.approx(0.7)
    assert summary.spread.sd == pytest.approx(math.sqrt(0.02))  # n - 1 in the denominator
    assert summary.spread.n == 2


def test_differences_are_paired_by_the_runs_seeds() -> None:
    runs = [run("lora", seed, score) for seed, score in enumerate(LORA)]
    # In another order: pairs must be found by seed, not by position.
    runs += [run("ailora", seed, AILORA[seed]) for seed in (3, 0, 4, 1, 2)]
    summary = _of("ailora", summarize(comparison(runs)))
    assert summary.paired is not None
    assert summary.paired.difference == pytest.approx((sum(AILORA) - sum(LORA)) / 5)
    assert summary.verdict == "above LoRA"


def test_an_interval_around_zero_shows_no_difference() -> None:
    runs = [run("lora", seed, score) for seed, score in enumerate(LORA)]
    runs += [run("pissa", s, score + (-1) ** s * 0.02) for s, score in enumerate(LORA)]
    assert _of("pissa", summarize(comparison(runs))).verdict == "no difference shown"


def test_few_seeds_conclude_nothing_however_large_the_difference() -> None:
    runs = [run("lora", seed, 0.5) for seed in range(4)]
    runs += [run("ailora", seed, 0.9 + seed / 1000) for seed in range(4)]
    assert "too few" in _of("ailora", summarize(comparison(runs))).verdict


def test_without_lora_there_is_no_difference() -> None:
    summary = summarize(comparison([run("ailora", 0, 0.9), run("pissa", 0, 0.8)]))[0]
    assert summary.paired is None
    assert summary.verdict == ""
