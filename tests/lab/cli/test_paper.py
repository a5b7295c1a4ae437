"""``ailora paper``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ailora.lab import training
from ailora.lab.cli import sweeps
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.recipes import RECIPES, SCALES, Scale, make_recipe
from ailora.lab.training.results import DivergedError
from tests.commands import Call, check_refused


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_says_how_many_runs_there_are_and_writes_nothing(
    name: str, scale: Scale, call: Call
) -> None:
    ended = call(f"paper {name} --scale {scale} --dry-run")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    number = len(distinct(make_recipe(name, scale).grids))
    assert f"{number:,} runs in all" in ended.out
    assert list(Path().iterdir()) == []


@pytest.fixture
def small(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three runs of a second, done in this process."""
    monkeypatch.setattr(sweeps, "engine_named", lambda *_: Here())
    return f"paper figure6 --model {tiny_model} --out out"


def trained() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path("out/runs").glob("*/result.json")}


def test_a_smoke_test_leaves_its_runs_and_a_table(call: Call, small: str) -> None:
    ended = call(small)
    assert ended.code == 0, ended.err
    assert len(trained()) == 3
    page = Path("out/figure6-smoke.md").read_text(encoding="utf-8")
    for name in ("LoRA", "AILoRA", "reAILoRA"):
        assert re.search(rf"^\| movies \(\w+\) \| {name} \| \d\d\.\d\d \| 1 \|", page, re.MULTILINE)
    assert "nothing can be concluded" in page
    assert "nothing can be concluded" in " ".join(ended.out.split())
    assert r"\begin{tabular}" in Path("out/figure6-smoke.tex").read_text(encoding="utf-8")


def test_a_figure_is_drawn_with_its_data_beside_it(call: Call, small: str) -> None:
    ended = call(small)
    drawn = {path.name for path in Path("out/figures").iterdir()}
    assert drawn == {f"figure{n}" for n in ("2.svg", "2.png", "6.svg", "6.png", "6.csv")}
    assert "figure6.svg, .png and .csv" in ended.out and "figure2.svg, .png\n" in ended.out
    scores = pd.read_csv("out/figures/figure6.csv").set_index("method")["score"]
    for path in trained():
        run = json.loads(path.read_text(encoding="utf-8"))
        test = run["metrics"]["test"][run["data"]["metric"]]
        assert scores[run["config"]["method"]] == pytest.approx(test)


def test_what_is_finished_is_not_run_again(call: Call, small: str) -> None:
    call(small)
    before, page = trained(), Path("out/figure6-smoke.md").read_text(encoding="utf-8")
    assert call(small).code == 0
    assert trained() == before
    assert Path("out/figure6-smoke.md").read_text(encoding="utf-8") == page


def failing(monkeypatch: pytest.MonkeyPatch, methods: tuple[str, ...]) -> None:
    """Let the runs of some methods diverge."""
    train = training.train

    def stub(config: Any, *args: Any, **kwargs: Any) -> Any:
        if config.method in methods:
            raise DivergedError("training diverged: the loss is nan at step 3")
        return train(config, *args, **kwargs)

    monkeypatch.setattr(training, "train", stub)


def test_a_failed_run_does_not_stop_the_others_and_is_told(
    call: Call, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ("lora",))
    ended = call(small)
    assert ended.code == 1
    assert "failed (diverged): training diverged: the loss is nan at step 3" in ended.out
    assert len(trained()) == 2
    assert "| AILoRA |" in Path("out/figure6-smoke.md").read_text(encoding="utf-8")


def test_nothing_but_failed_runs_end_in_one_line(
    call: Call, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ("lora", "ailora", "reailora"))
    check_refused(call(small), "every run failed; the first: training diverged")
    assert not Path("out/figure6-smoke.md").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("paper tabel1", "did you mean 'table1'?"),
        ("paper table1 --scale large", "there are smoke, small, paper"),
        ("paper table1 --scale paper --model demo", "no settings are published"),
        ("paper table2 --data nowhere", "nowhere"),
        ("paper table1 --model ./nowhere", "no such folder"),
    ],
)
def test_bad_input_is_named_in_one_line(line: str, words: str, call: Call) -> None:
    check_refused(call(line), words)
