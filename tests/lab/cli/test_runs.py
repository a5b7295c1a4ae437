"""Folders of runs that somebody changed by hand, or that a comparison made."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.cli import sweeps
from ailora.lab.experiments.engines.here import Here
from tests.commands import Call

Result = dict[str, Any]


def without_its_metric(result: Result) -> None:
    del result["metrics"]["test"][result["data"]["metric"]]


def with_a_text_for_a_score(result: Result) -> None:
    result["metrics"]["test"][result["data"]["metric"]] = "high"


def with_nan(result: Result) -> None:
    result["metrics"]["selection"][result["data"]["metric"]] = math.nan


def with_a_text_for_its_config(result: Result) -> None:
    result["config"] = "lora at 1e-2"


def with_a_rate_in_words(result: Result) -> None:
    result["config"]["lr"] = "fast"


CHANGES = (
    *(without_its_metric, with_a_text_for_a_score, with_nan),
    *(with_a_text_for_its_config, with_a_rate_in_words),
)


@pytest.fixture(scope="module")
def options(tiny_model: Path, reviews: Path) -> str:
    return f"--model {tiny_model} --task {reviews} --rank 2 --epochs 1 --batch-size 8"


def compared(call: Call, options: str) -> Path:
    """The folder of a comparison of two runs."""
    done = call(f"compare {options} --methods lora,ailora --seeds 0 --out out")
    assert done.code == 0, done.err
    return Path("out").absolute()


def test_changed_results_are_listed_as_damaged_with_the_reason(
    call: Call, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "engine_named", lambda *_: Here())
    monkeypatch.setenv("COLUMNS", "300")
    out = compared(call, options)
    (path,) = out.glob("runs/ailora*/result.json")
    others = list(out.glob("runs/lora-*"))
    whole = path.read_text()
    plan = Path("again.toml")
    page = (out / "summary.md").read_text()
    plan.write_text(page.split("```toml\n")[1].split("```")[0])
    for change in CHANGES:
        spoil(path, whole, change)
        spoiled = path.read_text()
        listed = call(f"runs {out}")
        assert (listed.code, listed.err) == (0, ""), change.__name__
        assert "1 finished, 1 damaged" in listed.out
        assert "result.json: is damaged: " in call(f"runs {out} show ailora").out
        assert call(f"runs {out} compare {others[0].name} {path.parent.name}").code == 0
        assert json.loads(call(f"runs {out} --json").out)[0]["damage"]
        reported = call(f"report {out}")
        assert (reported.code, reported.err) == (0, "")
        assert "1 damaged" in reported.out
        assert "is damaged" in (out / "runs.html").read_text()
        for again in (
            f"compare {options} --methods lora,ailora --seeds 0 --out out",
            f"sweep {plan} --out {out / 'runs'} --no-estimate",
        ):
            ended = call(again)
            assert (ended.code, ended.err) == (1, ""), again
            assert "is damaged" in ended.out
        assert path.read_text() == spoiled  # nothing that somebody wrote is lost
    trained = call(f"train {options} --method ailora --evaluations 4 --monitor-rows 100 "
                   f"--lr 2e-3 --out {out / 'runs'}")  # fmt: skip
    assert trained.code == 2
    assert "is damaged" in trained.err


@pytest.mark.parametrize("schema", [4, "2027-01"])
def test_a_result_of_a_later_version_is_passed_over_with_its_name_and_schema(
    call: Call, options: str, monkeypatch: pytest.MonkeyPatch, schema: Any
) -> None:
    monkeypatch.setattr(sweeps, "engine_named", lambda *_: Here())
    monkeypatch.setenv("COLUMNS", "300")
    out = compared(call, options)
    (path,) = out.glob("runs/ailora*/result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    line = f"result.json: has schema {schema!r}, which is not known (up to 3 are); update ailora"
    listed, reported = call(f"runs {out}"), call(f"report {out}")
    assert (listed.code, reported.code) == (0, 0)
    assert "1 finished, 1 damaged" in listed.out
    assert line in listed.out
    page = (out / "runs.html").read_text(encoding="utf-8")
    assert "LoRA" in page
    assert line.replace("'", "&#39;") in page


def spoil(path: Path, whole: str, change: Callable[[Result], None]) -> None:
    result = json.loads(whole)
    change(result)
    path.write_text(json.dumps(result))


def test_the_positive_class_of_f1_is_named(
    call: Call, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ended = call(f"train {options} --method lora --metrics f1 --out runs")
    assert ended.code == 0, ended.err
    (path,) = Path("runs").glob("*/result.json")
    data = json.loads(path.read_text())["data"]
    name = data["positive"]
    assert f"f1 of {name}" in ended.out
    assert f"test f1 of {name} " in call("runs runs").out
    assert f"test: f1 of {name} " in call("runs runs show lora").out
    assert f"f1 of {name}" in call(f"score {path.parent}").out
    assert call("report runs").code == 0
    page = Path("runs/runs.html").read_text(encoding="utf-8")
    assert f"f1 is of the positive class, &#39;{name}&#39;" in page
    assert f"f1 of {name} (n = 1)" in page
    assert f"f1 of {name} on selection rows" in page  # the axis of a figure
