"""What figures are drawn from, measured in runs of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ailora.lab.report.figures.gallery import PANELS, draw_panels, read_tables
from ailora.lab.report.figures.panel_tables import MEASURES, Seen, forgotten
from tests.conftest import one_thread


@pytest.fixture(scope="module")
def seen(runs: dict[str, Path]) -> dict[str, Seen]:
    """Finished runs by method."""
    return {
        method: Seen(json.loads((path / "result.json").read_text(encoding="utf-8")), path)
        for method, path in runs.items()
    }


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    with one_thread():
        yield


def test_norms_are_those_of_the_saved_weights(
    seen: dict[str, Seen], runs: dict[str, Path], tiny_model: Path
) -> None:
    table = MEASURES["weights"]([seen["full"]], iter)["figure1cd"]
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(runs["full"] / "adapter" / "model.safetensors")
    for layer in (0, 1):
        for role, name in (("q", "query"), ("v", "value")):
            key = f"bert.encoder.layer.{layer}.attention.self.{name}.weight"
            plain = key.removeprefix("bert.")
            moved = after[key if key in after else plain].double()
            moved = moved - before[key if key in before else plain].double()
            own = table[(table["role"] == role) & (table["layer"] == layer)]["norm"]
            assert float(moved.norm()) > 0
            assert list(own) == pytest.approx([float(moved.norm())], rel=1e-6)


def test_points_are_of_full_fine_tuning_and_lora_before_and_after_by_pca_and_two_starts(
    seen: dict[str, Seen],
) -> None:
    runs = [seen["lora"], seen["ailora"], seen["full"]]
    table = MEASURES["weights"](runs, iter)["figure1ab"]
    assert set(table["method"]) == {"full", "lora"}
    names = ["method", "role", "embedding", "start", "group"]
    pictures = table.groupby(names, dropna=False).size()
    assert len(pictures) == 24 and set(pictures.to_numpy()) == {2}  # the layers
    assert set(zip(table["embedding"], table["start"].fillna(-1), strict=True)) == {
        ("pca", -1),
        ("tsne", 0),
        ("tsne", 1),
    }


def test_curves_are_the_runs_own_history(seen: dict[str, Seen]) -> None:
    run = seen["lora"].result
    found = MEASURES["convergence"]([seen["lora"]], iter)
    metric = run["data"]["metric"]
    assert list(found["figure3b"]["score"]) == [entry[metric] for entry in run["history"]]
    losses = [entry["loss"] for entry in run["history"] if entry["loss"] is not None]
    assert list(found["figure3a"]["loss"]) == losses


def test_ranks_have_the_last_loss_and_the_test_score(seen: dict[str, Seen]) -> None:
    run = seen["ailora"].result
    found = MEASURES["ranks"]([seen["ailora"]], iter)
    assert list(found["figure5a"]["rank"]) == [2]
    assert list(found["figure5a"]["loss"]) == [run["history"][-1]["loss"]]
    test = run["metrics"]["test"][run["data"]["metric"]]
    assert list(found["figure5b"]["score"]) == [test]
    assert list(MEASURES["reverse"]([seen["ailora"]], iter)["figure6"]["score"]) == [test]


def test_a_run_is_compared_with_full_fine_tuning_of_its_own_seed_alone(
    seen: dict[str, Seen],
) -> None:
    runs = [seen["lora"], seen["ailora"], seen["full"]]
    table = MEASURES["function"](runs, iter)["figure4a"]
    assert set(table["method"]) == {"lora", "ailora"}
    assert set(table["role"]) == {"q"}
    assert table["left"].between(0, 1).all()
    assert set(table["random_left"]) == {2 / 32}
    other = dict(seen["lora"].result, config={**seen["lora"].result["config"], "seed": 7})
    found = MEASURES["value_similarity"]([Seen(other, seen["lora"].folder), seen["full"]], iter)
    assert len(found["figure7"]) == 0


def test_where_the_base_predicts_no_tokens_the_reason_stands_in_the_table(
    seen: dict[str, Seen],
) -> None:
    table = forgotten([seen["lora"]], ["the film was good", "a poor plot"], "reviews")["figure4b"]
    assert "kl" not in table
    assert "no head that predicts tokens" in table["reason"].iloc[0]
    assert table["drift"].iloc[0] > 0


def test_factors_of_every_method_are_points_of_one_picture(seen: dict[str, Seen]) -> None:
    found = MEASURES["factors"]([seen["lora"], seen["ailora"]], iter)
    for role in "qv":
        table = found[f"figure8{role}"]
        assert set(table["group"]) == {"lora", "ailora"}
        assert set(table["matrix"]) == {"A", "B"}
        assert (table.groupby(["matrix", "embedding", "start"], dropna=False).size() == 4).all()


def test_what_is_drawn_from_a_csv_file_is_what_was_drawn_from_the_runs(
    seen: dict[str, Seen], tmp_path: Path
) -> None:
    runs = [seen["lora"], seen["ailora"], seen["full"]]
    low_rank, tables = runs[:2], {}
    for name, measure in MEASURES.items():
        tables |= measure(low_rank if name == "factors" else runs, iter)
    tables |= forgotten(runs, ["the film was good", "a poor plot"], "reviews")
    tables["figure5a"] = tables["figure5a"].dropna()
    assert tables.keys() == PANELS.keys()
    drawn = draw_panels(tables, tmp_path / "first")
    again = draw_panels(read_tables(tmp_path / "first"), tmp_path / "second")
    assert {path.stem for path in drawn} == {path.stem for path in again} == PANELS.keys()
    for one, other in zip(sorted(drawn), sorted(again), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        assert one.with_suffix(".png").stat().st_size > 0


def test_an_empty_table_is_no_picture(seen: dict[str, Seen], tmp_path: Path) -> None:
    assert draw_panels(MEASURES["function"]([seen["lora"]], iter), tmp_path) == []


def test_the_tables_are_of_the_weights_and_not_of_their_names(seen: dict[str, Seen]) -> None:
    """Negative control: another run's folder under this one's name changes what is measured."""
    own = MEASURES["weights"]([seen["lora"]], iter)["figure1cd"]
    other = MEASURES["weights"]([Seen(seen["lora"].result, seen["ailora"].folder)], iter)
    assert not torch.allclose(
        torch.tensor(own["norm"].to_numpy()),
        torch.tensor(other["figure1cd"]["norm"].to_numpy()),
        rtol=1e-3,
    )
