"""Rows count as chance beside seeds for every metric whose rows are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ailora.lab.report.best_to_best import Reported, best_to_best
from ailora.lab.report.row_scores import BLOCKS, always_positive, pseudo_values, row_scores
from ailora.lab.tasks import compute
from tests.lab.report.test_best_to_best import BANK, DRAWS, Table, bits

Row = dict[str, Any]


def folder_of(path: Path, rows: list[Row]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "predictions-test.jsonl").write_text(lines, encoding="utf-8")
    return path


def run(metric: str, score: float, **data: Any) -> dict[str, Any]:
    return {"data": {"metric": metric, **data}, "metrics": {"test": {metric: score}}}


def test_pseudo_values_of_a_mean_are_the_rows() -> None:
    values = np.random.default_rng(0).random(BLOCKS)
    found = pseudo_values(lambda chosen: float(values[chosen].mean()), BLOCKS)
    assert np.sort(found) == pytest.approx(np.sort(values))


def correlated(rng: np.random.Generator, rows: int) -> Callable[[Any], float]:
    right = rng.normal(size=rows)
    answers = 0.7 * right + 0.5**0.5 * rng.normal(size=rows)
    return lambda chosen: compute(["pearson"], answers[chosen], right[chosen])["pearson"]


def test_pseudo_values_spread_as_pearsons_correlation_does() -> None:
    # Of normal values its variance is (1 - r^2)^2 / (rows - 1).
    rng, rows, ratios = np.random.default_rng(0), 1000, []
    for _ in range(20):
        score = correlated(rng, rows)
        values = pseudo_values(score, rows)
        r = score(np.arange(rows))
        assert values.mean() == pytest.approx(r)
        ratios.append(values.var(ddof=1) / BLOCKS / ((1 - r * r) ** 2 / (rows - 1)))
    assert 0.85 <= np.mean(ratios) <= 1.15


@pytest.fixture(scope="module")
def banks() -> dict[str, list[tuple[Table, Table]]]:
    """Answers and labels of 60 real runs each, by kind of answer."""
    classes = json.loads(BANK.read_text(encoding="utf-8"))
    numbers = json.loads(BANK.with_stem("comparison_bank_numbers").read_text(encoding="utf-8"))
    labels, right = bits(classes["labels"]).astype(int), np.array(numbers["labels"].split(), float)
    found = [np.eye(2)[bits(one)] for one in classes["groups"]["rank 8"]["predicted"]]
    return {
        "classes": [(one, labels) for one in found],
        "numbers": [(np.array(one.split(), float), right) for one in numbers["predicted"]],
    }


def scored(rows: Table, *, keep: bool = True) -> dict[int, Reported]:
    return {
        seed: Reported(score=float(row.mean()), rows=row if keep else None)
        for seed, row in enumerate(rows)
    }


def test_the_bank_of_numbers_holds_the_scores_of_its_rows(
    banks: dict[str, list[tuple[Table, Table]]],
) -> None:
    numbers = json.loads(BANK.with_stem("comparison_bank_numbers").read_text(encoding="utf-8"))
    scores = [compute(["pearson"], *one)["pearson"] for one in banks["numbers"]]
    assert len(scores) >= 60
    assert scores == pytest.approx(numbers["pearson"], abs=5e-3)  # answers of three digits


# F1 of runs that fall back on one class is long-tailed (of these 0.02 to 0.78): there Student's t
# of five pairs rejects less often than it may, over seeds alone as well.
@pytest.mark.parametrize(
    ("kind", "metric", "least"),
    [
        ("classes", "mcc", 0.03),
        ("classes", "f1", 0.005),
        ("numbers", "pearson", 0.03),
        ("numbers", "spearman", 0.03),
    ],
)
def test_a_method_with_itself_differs_in_five_of_a_hundred_by_every_score(
    banks: dict[str, list[tuple[Table, Table]]], kind: str, metric: str, least: float
) -> None:
    def values(answers: Table, right: Table) -> Table:
        return pseudo_values(
            lambda rows: compute([metric], answers[rows], right[rows])[metric], len(right)
        )

    bank = np.array([values(*one) for one in banks[kind]])
    rng, shown, found, alone = np.random.default_rng(0), 0, 0, 0
    for _ in range(DRAWS):
        chosen = rng.choice(len(bank), 10, replace=False)
        first, second = bank[chosen[:5]], bank[chosen[5:]]
        one = best_to_best({"a": scored(first), "b": scored(second)}, "a")["b"]
        assert one.both is not None
        assert one.smallest is not None
        shown += one.shown
        better = {"a": scored(first), "b": scored(second + one.smallest)}
        found += best_to_best(better, "a")["b"].shown
        without = {"a": scored(first, keep=False), "b": scored(second, keep=False)}
        alone += best_to_best(without, "a")["b"].shown
    assert least <= shown / DRAWS <= 0.07
    assert 0.75 <= found / DRAWS <= 0.85
    if metric == "f1":
        assert abs(shown - alone) / DRAWS <= 0.01
        assert alone / DRAWS < 0.03


def test_classes_and_numbers_are_scored_again_without_some_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = [{"label": "ab"[a], "predicted": "ab"[b]} for a, b in rng.integers(0, 2, (150, 2))]
    places = [["ab".index(row[name]) for row in classes] for name in ("label", "predicted")]
    right, answers = np.array(places[0]), np.eye(2)[places[1]]
    for metric, positive in (("f1", 0), ("f1", 1), ("mcc", 1)):
        score = compute([metric], answers, right, positive=positive)[metric]
        data = {"labels": ["a", "b"], "positive": "ab"[positive]}
        rows = row_scores(run(metric, score, **data), folder_of(tmp_path, classes))
        assert rows is not None
        assert (len(rows), rows.mean()) == (BLOCKS, pytest.approx(score))
    assert row_scores(run("f1", 0.1, **data), tmp_path) is None  # of another run

    numbers = [{"label": a, "predicted": a + b} for a, b in rng.normal(size=(50, 2))]
    values = [np.array([row[name] for row in numbers]) for name in ("predicted", "label")]
    score = compute(["spearman"], *values)["spearman"]
    rows = row_scores(run("spearman", score, labels=None), folder_of(tmp_path, numbers))
    assert rows is not None
    assert len(rows) == 50


def test_f1_is_held_against_always_answering_its_class(tmp_path: Path) -> None:
    labels = ["a"] * 6 + ["b"] * 4
    folder = folder_of(tmp_path, [{"label": one, "predicted": "b"} for one in labels])
    right, answers = np.array([one == "b" for one in labels], dtype=int), np.eye(2)[[1] * 10]
    score = compute(["f1"], answers, right)["f1"]
    data = {"labels": ["a", "b"], "positive": "b"}
    assert always_positive(run("f1", score, **data), folder) == (pytest.approx(score), "b")
    assert always_positive(run("accuracy", 0.4, **data), folder) is None
    assert always_positive(run("f1", score, labels=["a", "b", "c"]), folder) is None
    assert always_positive(run("f1", score, **data), tmp_path / "none") is None


def test_scores_beside_the_answers_are_taken_as_they_are_and_groups_weigh_alike(
    tmp_path: Path,
) -> None:
    rows = [
        {"group": "a", "rougeL": 0.5},
        {"group": "a", "rougeL": 0.7},
        {"group": "b", "rougeL": 0},
    ]
    found = row_scores(run("rougeL", 0.3), folder_of(tmp_path, rows))
    assert found == pytest.approx([0.375, 0.525, 0.0])
    plain = [{"id": "1", "prediction": "x", "f1": 0.25}, {"id": "2", "prediction": "", "f1": 1.0}]
    found = row_scores(run("f1", 0.625, labels=None), folder_of(tmp_path, plain))
    assert found == pytest.approx([0.25, 1.0])


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"label": "a"}', '{"label": "c", "predicted": "a"}', "null"]
)
def test_what_is_not_kept_or_broken_counts_for_nothing(tmp_path: Path, text: str) -> None:
    asked = run("f1", 0.5, labels=["a", "b"], positive="b")
    assert row_scores(asked, tmp_path) is None
    (tmp_path / "predictions-test.jsonl").write_text(text, encoding="utf-8")
    assert row_scores(asked, tmp_path) is None
