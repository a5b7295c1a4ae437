"""Scores equal hand-worked ones, and the undefined cases are decided."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ailora.errors import UserError
from ailora.lab.tasks import METRICS, compute
from ailora.lab.tasks.classification.metrics import metric_names


def logits(classes: list[int], width: int) -> np.ndarray:
    return np.eye(width)[classes] * 3 - 1


def test_binary_scores_equal_the_confusion_matrix() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    chosen = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]  # tp 3, fn 1, fp 2, tn 4
    got = compute(["accuracy", "f1", "mcc"], logits(chosen, 2), truth)
    assert list(got) == ["accuracy", "f1", "mcc"]
    assert got["accuracy"] == pytest.approx(7 / 10)
    assert got["f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert got["mcc"] == pytest.approx(
        (3 * 4 - 2 * 1) / math.sqrt((3 + 2) * (3 + 1) * (4 + 2) * (4 + 1))
    )


def test_f1_of_two_classes_is_that_of_class_one_and_not_symmetric() -> None:
    truth, chosen = np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0])
    one = compute(["f1"], logits(list(chosen), 2), truth)["f1"]
    other = compute(["f1"], logits(list(1 - chosen), 2), 1 - truth)["f1"]
    assert one == pytest.approx(2 / 3)
    assert other == pytest.approx(4 / 5)


def test_f1_of_more_classes_is_the_mean_over_classes() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    chosen = [0, 0, 1, 2, 2, 2]
    got = compute(["f1"], logits(chosen, 3), truth)["f1"]
    assert got == pytest.approx((1 + 2 / 3 + 4 / 5) / 3)


def test_correlations_equal_numpy_and_ranks_ignore_monotone_maps() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=50)
    values = (truth + generator.normal(size=50)).astype(np.float32)
    got = compute(["pearson", "spearman"], values[:, None], truth)
    assert got["pearson"] == pytest.approx(np.corrcoef(values, truth)[0, 1], abs=1e-7)
    warped = compute(["pearson", "spearman"], np.exp(values), truth)
    assert warped["spearman"] == pytest.approx(got["spearman"], abs=1e-12)
    assert abs(warped["pearson"] - got["pearson"]) > 1e-3


@pytest.mark.filterwarnings("error")
def test_constant_predictions_score_zero_where_the_formula_is_zero_by_zero() -> None:
    truth = np.array([0, 1, 0, 1])
    assert compute(["mcc", "f1"], logits([0, 0, 0, 0], 2), truth) == {"mcc": 0.0, "f1": 0.0}
    got = compute(["pearson", "spearman"], np.full(4, 0.3), np.arange(4.0))
    assert got == {"pearson": 0.0, "spearman": 0.0}
    assert compute(["pearson"], np.arange(4.0), np.ones(4)) == {"pearson": 0.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_called_diverged(bad: float) -> None:
    values = logits([0, 1], 2)
    values[1, 0] = bad
    with pytest.raises(UserError, match=r"1 of 4 predictions .* diverged"):
        compute(["accuracy"], values, np.array([0, 1]))


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'acuracy': did you mean 'accuracy'"):
        metric_names(["acuracy"], regression=False)
    with pytest.raises(UserError, match=r"called 'mcc'.*pearson, spearman"):
        metric_names(["mcc"], regression=True)
    with pytest.raises(UserError, match="no metric named"):
        metric_names([], regression=True)


def test_every_metric_is_a_default_of_one_kind_and_one_name_may_stand_alone() -> None:
    both = metric_names(None, regression=False) + metric_names(None, regression=True)
    assert both == METRICS
    assert metric_names("f1", regression=False) == ("f1",)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(3, 2\).*\(2,\)"):
        compute(["accuracy"], np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(UserError, match="empty split"):
        compute(["accuracy"], np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(UserError, match="no regression metric is called 'accuracy'"):
        compute(["accuracy"], np.zeros((3, 1)), np.zeros(3))


def confusion(truth: np.ndarray, chosen: np.ndarray, width: int) -> np.ndarray:
    table = np.zeros((width, width))
    for row, column in zip(truth, chosen, strict=True):
        table[row, column] += 1
    return table


def by_hand(truth: np.ndarray, chosen: np.ndarray, width: int) -> dict[str, float]:
    """The three scores from the confusion matrix alone; mcc as Gorodkin (2004) defines it."""
    table = confusion(truth, chosen, width)
    hits, actual, guessed = np.diag(table), table.sum(1), table.sum(0)
    seen = actual + guessed > 0
    f1 = np.divide(2 * hits, actual + guessed, out=np.zeros(width), where=seen)
    total = table.sum()
    cross = hits.sum() * total - actual @ guessed
    spread = math.sqrt(total**2 - guessed @ guessed) * math.sqrt(total**2 - actual @ actual)
    return {
        "accuracy": hits.sum() / total,
        "f1": f1[1] if width == 2 else f1[seen].mean(),
        "mcc": cross / spread if spread else 0.0,
    }


CASES = {
    "one class only, always right": ([1] * 6, [1] * 6),
    "the other class only, always right": ([0] * 6, [0] * 6),
    "one class only, always wrong": ([0] * 6, [1] * 6),
    "one class only, some right": ([1] * 6, [0, 1, 1, 0, 1, 0]),
    "constant predictions": ([0, 1, 1, 0, 1, 1], [1] * 6),
    "perfect": ([0, 1, 1, 0], [0, 1, 1, 0]),
    "reversed": ([0, 1, 1, 0], [1, 0, 0, 1]),
    "a single row": ([1], [1]),
    "a single wrong row": ([1], [0]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("case", list(CASES))
def test_degenerate_classes_score_as_the_confusion_matrix_says(case: str, width: int) -> None:
    truth, chosen = map(np.array, CASES[case])
    got = compute(["accuracy", "f1", "mcc"], logits(list(chosen), width), truth)
    assert got == pytest.approx(by_hand(truth, chosen, width), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_random_classes_score_as_the_confusion_matrix_says(seed: int) -> None:
    draw = np.random.default_rng(seed)
    width, rows = int(draw.integers(2, 6)), int(draw.integers(1, 40))
    weights = draw.dirichlet(np.full(width, 0.5))  # some classes are rare or absent
    truth = draw.choice(width, size=rows, p=weights)
    chosen = np.where(draw.random(rows) < 0.6, truth, draw.integers(0, width, rows))
    got = compute(["accuracy", "f1", "mcc"], logits(list(chosen), width), truth)
    assert got == pytest.approx(by_hand(truth, chosen, width), abs=1e-12)


def test_of_equal_logits_the_first_class_is_chosen() -> None:
    assert compute(["accuracy"], np.zeros((4, 3)), np.array([0, 0, 1, 2])) == {"accuracy": 0.5}


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, those of equal values averaged: counted, not sorted."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(10))
def test_spearman_with_ties_is_pearson_of_the_mean_ranks(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 6, 40) / 2  # STS-B's labels are full of ties
    values = np.round(truth + draw.normal(size=40), 0)
    expected = np.corrcoef(mean_ranks(values), mean_ranks(truth))[0, 1]
    assert compute(["spearman"], values, truth)["spearman"] == pytest.approx(expected, abs=1e-12)
    # The formula for untied ranks is a different number here.
    gaps = mean_ranks(values) - mean_ranks(truth)
    untied = 1 - 6 * (gaps @ gaps) / (40 * (40**2 - 1))
    assert abs(untied - expected) > 1e-3


@pytest.mark.filterwarnings("error")
def test_constant_labels_and_a_single_row_have_no_correlation() -> None:
    none = {"pearson": 0.0, "spearman": 0.0}
    assert compute(list(none), np.arange(4.0), np.full(4, 2.5)) == none
    assert compute(list(none), np.array([1.0]), np.array([3.0])) == none


def test_nearly_constant_predictions_keep_their_order() -> None:
    values = 1.0 + np.arange(5) * np.finfo(np.float64).eps
    got = compute(["spearman"], values, np.arange(5.0))
    assert got["spearman"] == pytest.approx(1.0)


def test_nan_in_regression_and_an_empty_regression_are_refused() -> None:
    with pytest.raises(UserError, match=r"1 of 2 predictions"):
        compute(["spearman"], np.array([[1.0], [np.nan]]), np.array([0.0, 1.0]))
    with pytest.raises(UserError, match="empty split"):
        compute(["spearman"], np.zeros((0, 1)), np.zeros(0))
