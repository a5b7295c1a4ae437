"""Scores equal hand-worked ones, and the undefined cases are decided."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ailora.errors import UserError
from ailora.tasks import METRICS, compute
from ailora.tasks.metrics import metric_names


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
