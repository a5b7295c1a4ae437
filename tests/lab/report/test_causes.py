"""A difference to LoRA, taken apart into rate, size and direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ailora.lab.methods.variants import read_variant
from ailora.lab.report.causes import causes_of, causes_rows, missing_of, steps_of
from ailora.lab.report.comparison import Comparison
from ailora.lab.report.figures.comparison_figures import causes
from ailora.lab.report.page import as_markdown, write_comparison
from ailora.lab.report.store_report import store_report
from tests.lab.report.runs import comparison, run
from tests.lab.report.stores import finished, full_run

SCORES = {
    "lora": 0.70,
    "lora:lr_ratio=2": 0.75,
    "ailora:directions=random": 0.72,
    "ailora": 0.73,
}


def made(scores: dict[str, float], seeds: int = 5) -> Comparison:
    """Runs whose scores differ a little by seed, another little by method."""
    return comparison(
        [
            run(seed=seed, test=score + seed / 100 + (seed + place) % 3 / 1000, **one)
            for place, (method, score) in enumerate(scores.items())
            for one in [read_variant(method)]
            for seed in range(seeds)
        ]
    )


def kinds(found: Comparison) -> list[tuple[str, str]]:
    return [(cause.method, cause.what) for cause in causes_of(found)]


def test_the_steps_of_a_method_add_up_to_its_difference_to_lora() -> None:
    found = causes_of(made(SCORES))
    assert [one.what for one in found] == ["rate", "size", "direction", "all"]
    rate, size, direction, whole = found
    for seed, value in whole.by_seed.items():
        parts = (one.by_seed[seed] for one in (rate, size, direction))
        assert sum(parts) == pytest.approx(value)
    assert rate.paired.difference == pytest.approx(0.05, abs=2e-3)
    assert size.paired.difference == pytest.approx(-0.03, abs=2e-3)
    assert direction.paired.difference == pytest.approx(0.01, abs=2e-3)


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("pissa", ["pissa:directions=random-lora", "pissa-pissa:directions=random"]),
        (
            "milora:scale=unit",
            [
                "milora:directions=random:scale=unit-lora",
                "milora:scale=unit-milora:directions=random:scale=unit",
            ],
        ),
        ("ailora:lr_ratio=1", ["ailora:directions=random:lr_ratio=1-lora"]),
        (
            "pissa:lr_ratio=2",
            ["lora:lr_ratio=2-lora", "pissa:directions=random:lr_ratio=2-lora:lr_ratio=2"],
        ),
        ("lora:lr_ratio=2", ["lora:lr_ratio=2-lora"]),
        ("lora", []),
        ("olora", []),
        ("full", []),
        ("mine", []),
    ],
)
def test_each_step_changes_one_thing(method: str, steps: list[str]) -> None:
    found = [f"{ours}-{other}" for _, ours, other in steps_of(method)]
    assert found[: len(steps)] == steps


def test_only_steps_whose_runs_exist_are_shown_and_the_others_are_named() -> None:
    scores = {name: SCORES[name] for name in ("lora", "lora:lr_ratio=2", "ailora")}
    found = made(scores)
    assert kinds(found) == [("ailora", "rate"), ("ailora", "all")]
    assert missing_of(found) == ["ailora:directions=random"]


def test_a_step_whose_runs_are_anothers_is_shown_by_those() -> None:
    unit = "pissa:directions=random:scale=unit"
    found = made({"lora": 0.7, unit: 0.72, "pissa:scale=unit": 0.74, "milora:scale=unit": 0.71})
    steps = [(cause.method, cause.what, cause.ours, cause.other) for cause in causes_of(found)]
    for method in ("pissa:scale=unit", "milora:scale=unit"):
        assert (method, "size", unit, "lora") in steps
        assert (method, "direction", method, unit) in steps
    assert missing_of(found) == []


def test_without_controls_nothing_is_explained() -> None:
    found = made({"lora": 0.7, "pissa": 0.8, "milora": 0.6})
    assert (causes_of(found), missing_of(found)) == ([], [])


def test_a_control_alone_is_explained_on_its_own() -> None:
    assert kinds(made({"lora": 0.7, "lora:lr_ratio=2": 0.8})) == [("lora:lr_ratio=2", "rate")]
    assert kinds(made({"lora": 0.7, "pissa:directions=random": 0.8})) == [
        ("pissa:directions=random", "size")
    ]


def test_two_seeds_show_nothing_and_five_show_a_gain() -> None:
    assert {row[-1] for row in causes_rows(causes_of(made(SCORES, seeds=2)))} == {"too few seeds"}
    rows = causes_rows(causes_of(made(SCORES)))
    assert rows[0][:2] == ["AILoRA", "rate"]
    assert rows[0][-2:] == ["LoRA, V at 2x minus LoRA", "yes, a gain"]
    assert rows[1][-1] == "yes, a loss"
    assert rows[-1][1] == "all of it"


def test_the_figure_has_every_step_and_its_table_every_seed() -> None:
    figure, rows = causes(made(SCORES))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"AILoRA: {what}" for what in ("rate", "size", "direction", "all")
    ]
    assert len(rows) == 1 + 4 * 5


def test_page_and_markdown_name_variants_and_explain_the_difference(tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = []
    for method, score in SCORES.items():
        settings = read_variant(method)
        name = settings.pop("method")
        runs += [full_run(name, seed, score + seed / 100, **settings) for seed in range(2)]
    report = store_report(finished(runs))
    assert len(report.parts) == 1
    assert report.title == "LoRA; LoRA, V at 2x; AILoRA; AILoRA, random directions"
    assert report.methods["LoRA, V at 2x"].endswith("; V at 2x")
    assert {row[3] for row in report.runs} == {f"{name}: rank 8" for name in report.methods}
    page = write_comparison(report, tmp_path).read_text(encoding="utf-8")
    assert "Direction, size or rate" in page
    assert "AILoRA, random directions minus LoRA, V at 2x" in page
    assert (tmp_path / "figures" / "causes.csv").read_text().startswith("method,cause,ours")
    assert "Difference to LoRA by cause" in as_markdown(report)


def test_a_page_without_controls_says_nothing_of_causes(tmp_path: Path) -> None:
    runs = [full_run(method, seed, 0.7) for method in ("lora", "pissa") for seed in (0, 1)]
    page = write_comparison(store_report(finished(runs)), tmp_path).read_text(encoding="utf-8")
    assert "Direction, size or rate" not in page
    assert not (tmp_path / "figures" / "causes.csv").exists()
