"""The report's comparison is as often right as it says: real runs compared with themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ailora.lab.report.best_to_best import Reported, best_to_best, reported_of

BANK = Path(__file__).parents[3] / "benchmarks" / "results" / "comparison_bank.json"
DRAWS, ROWS = 1000, 240
Table = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def bank() -> dict[str, Table]:
    """Right (1) or wrong (0) by group, seeds x test rows."""
    found = json.loads(BANK.read_text(encoding="utf-8"))
    labels = bits(found["labels"])
    return {
        name: np.array([bits(one) == labels for one in group["predicted"]], dtype=np.float64)
        for name, group in found["groups"].items()
    }


def bits(text: str) -> npt.NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:ROWS]


def scored(rows: Table, *, keep: bool = True) -> dict[int, Reported]:
    """Runs by seed."""
    return {
        seed: Reported(score=float(row.mean()), rows=row if keep else None)
        for seed, row in enumerate(rows)
    }


def test_the_bank_holds_the_scores_of_its_rows(bank: dict[str, Table]) -> None:
    found = json.loads(BANK.read_text(encoding="utf-8"))["groups"]
    assert len(bank["rank 8"]) >= 60
    for name, rows in bank.items():
        assert rows.mean(axis=1) == pytest.approx(found[name]["accuracy"])


@pytest.mark.parametrize("keep", [True, False], ids=["rows kept", "scores alone"])
@pytest.mark.parametrize("seeds", [5, 10])
def test_a_method_against_itself_is_told_apart_in_five_of_a_hundred(
    bank: dict[str, Table], seeds: int, keep: bool
) -> None:
    rng, own, shown = np.random.default_rng(0), bank["rank 8"], 0
    for _ in range(DRAWS):
        chosen = rng.choice(len(own), 2 * seeds, replace=False)
        first, second = (
            scored(own[chosen[:seeds]], keep=keep),
            scored(own[chosen[seeds:]], keep=keep),
        )
        shown += best_to_best({"a": first, "b": second}, "a")["b"].shown
    assert 0.03 <= shown / DRAWS <= 0.07


@pytest.mark.parametrize("seeds", [5, 10])
def test_a_difference_of_the_stated_size_is_found_in_eighty_of_a_hundred(
    bank: dict[str, Table], seeds: int
) -> None:
    rng, own, shown = np.random.default_rng(0), bank["rank 8"], 0
    for _ in range(DRAWS):
        chosen = rng.choice(len(own), 2 * seeds, replace=False)
        first, second = own[chosen[:seeds]], own[chosen[seeds:]]
        stated = best_to_best({"a": scored(first), "b": scored(second)}, "a")["b"].smallest
        assert stated is not None
        shown += best_to_best({"a": scored(first), "b": scored(second + stated)}, "a")["b"].shown
    assert 0.75 <= shown / DRAWS <= 0.85


def test_five_methods_that_are_one_are_rarely_told_apart_at_all(bank: dict[str, Table]) -> None:
    rng, own, any_shown = np.random.default_rng(0), bank["rank 8"], 0
    for _ in range(DRAWS):
        groups = rng.choice(len(own), (5, 6), replace=False)
        methods = {name: scored(own[group]) for name, group in zip("abcde", groups, strict=True)}
        any_shown += any(one.shown for one in best_to_best(methods, "a").values())
    assert any_shown / DRAWS <= 0.07


@pytest.mark.parametrize(("better", "worse"), [("rank 32", "rank 1"), ("rank 32", "random head")])
def test_what_truly_differs_is_found_with_six_seeds(
    bank: dict[str, Table], better: str, worse: str
) -> None:
    found = best_to_best({"worse": scored(bank[worse]), "better": scored(bank[better])}, "worse")
    assert found["better"].verdict == "above worse"
    assert found["better"].both is not None


def test_pairs_are_of_the_same_seed(bank: dict[str, Table]) -> None:
    # The negative control: seeds mixed up, the pairs are gone and the interval is another.
    rows = bank["rank 8"][:8]
    other = rows.copy()
    other[:, :12] = 1.0
    right = best_to_best({"a": scored(rows), "b": scored(other)}, "a")["b"]
    mixed = best_to_best({"a": scored(rows), "b": scored(np.roll(other, 3, axis=0))}, "a")["b"]
    assert right.estimate == pytest.approx(mixed.estimate)
    assert right.seeds is not None
    assert mixed.seeds is not None
    assert mixed.seeds.se > 3 * right.seeds.se


def test_few_seeds_conclude_nothing(bank: dict[str, Table]) -> None:
    few = {"a": scored(bank["random head"][:4]), "b": scored(bank["rank 32"][:4])}
    found = best_to_best(few, "a")["b"]
    assert (found.shown, found.verdict) == (False, "4 seeds: too few to conclude anything")


def test_rows_count_only_where_they_make_up_the_score(tmp_path: Path) -> None:
    lines = [{"label": "a", "predicted": "a"}, {"label": "b", "predicted": "a"}]
    path = tmp_path / "predictions-test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def run(metric: str, score: float) -> dict[str, Any]:
        return {"data": {"metric": metric}, "metrics": {"test": {metric: score}}}

    rows = reported_of(run("accuracy", 0.5), tmp_path).rows
    assert rows is not None
    assert rows.tolist() == [1, 0]
    assert reported_of(run("accuracy", 0.75), tmp_path).rows is None  # of another run
    assert reported_of(run("rougeL", 0.5), tmp_path).rows is None
    assert reported_of(run("accuracy", 0.5), tmp_path / "none").rows is None
