"""What a comparison says of its runs; the numbers have their tests in tests/lab/statistics."""

import math

import pytest

from ailora.errors import UserError
from ailora.lab.report.comparison import Summary, metric_words, summarize
from tests.lab.report.runs import comparison, run


def test_nothing_finished_is_refused_with_the_first_reason():
    failed = [{"config": {"method": "lora", "lr": 1.0, "seed": 0}, "error": "out of memory"}]
    with pytest.raises(UserError, match=r"no finished run to report.*out of memory"):
        comparison([], failed=failed)


def test_two_runs_of_one_method_and_seed_are_refused():
    with pytest.raises(UserError, match="'lora' has seed 0 more than once"):
        comparison([run("lora", 0, 0.7), run("lora", 0, 0.8)])


def test_one_rate_is_said_to_rank_nothing_however_many_seeds():
    runs = [run(method, seed, 0.7) for method in ("lora", "ailora") for seed in range(9)]
    assert comparison(runs).caveat.startswith("No ranking of methods")


def test_few_seeds_of_one_method_are_said_although_the_others_have_many():
    runs = [run("lora", seed, 0.7) for seed in range(6)] + [run("ailora", 0, 0.7)]
    made = comparison(runs, chosen="selected", rates=(5e-4, 1e-3, 2e-3))
    assert "With 1 seed nothing can be concluded" in made.caveat


def test_enough_seeds_at_a_rate_inside_the_range_need_no_warning():
    runs = [run("lora", seed, 0.7) for seed in range(5)]
    caveat = comparison(runs, chosen="selected", rates=(5e-4, 1e-3, 2e-3)).caveat
    assert "nothing can be concluded" not in caveat
    assert "beyond" not in caveat


@pytest.mark.parametrize("rates", [(1e-3, 2e-3, 4e-3), (2.5e-4, 5e-4, 1e-3)])
def test_a_best_rate_at_the_edge_of_those_tried_is_named(rates):
    runs = [run("lora", 0, 0.7, lr=rates[1]), run("ailora", 0, 0.7, lr=1e-3)]
    caveat = comparison(runs, chosen="selected", rates=rates).caveat
    assert "The best rate of AILoRA was the smallest or largest tried" in caveat


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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"metric": "f1", "labels": ["bad", "good"]}, "f1 is of the last class, 'good'"),
        (
            {"metric": "f1", "labels": ["bad", "good"], "positive": "bad"},
            "f1 is of the positive class, 'bad'",
        ),
        (
            {"metric": "f1", "labels": ["a", "b", "c"], "positive": None},
            "f1 is the mean over the 3 classes, each counting alike (macro)",
        ),
        ({"metric": "accuracy", "labels": ["bad", "good"]}, ""),
        ({"metric": "f1", "labels": None}, ""),
    ],
)
def test_a_metric_says_what_it_is_of(data, words):
    assert metric_words(data) == words
