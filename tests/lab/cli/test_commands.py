"""The commands from the outside: what they print and what they leave."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Call, Ended

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
SMALL = "--rank 2 --epochs 1 --batch-size 8"


@pytest.fixture
def small(tiny_model: Path, reviews: Path) -> str:
    """Options of a run of a second."""
    return f"--model {tiny_model} --task {reviews} {SMALL}"


def finished(ended: Ended) -> list[str]:
    return [line for line in ended.out.splitlines() if " test accuracy " in line]


def test_train_prints_the_scores_of_the_folder_it_leaves(call: Call, small: str) -> None:
    ended = call(f"train {small} --out runs")
    assert ended.code == 0, ended.err
    (folder,) = Path("runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert f"{result['metrics']['test']['accuracy']:.4f}" in ended.out
    assert str(folder) in ended.out
    assert "step 0 differs from the base by 0" in " ".join(ended.out.split())
    assert ended.err == ""
    assert not CONTROL.search(ended.out)


def test_train_again_shows_the_same_and_trains_nothing(call: Call, small: str) -> None:
    first = call(f"train {small} --out runs")
    (result,) = Path("runs").glob("*/result.json")
    written = result.stat().st_mtime_ns
    second = call(f"train {small} --out runs")
    assert second == first
    assert result.stat().st_mtime_ns == written


def test_an_unfinished_run_needs_resume(call: Call, small: str) -> None:
    call(f"train {small} --out runs")
    (result,) = Path("runs").glob("*/result.json")
    result.unlink()
    refused = call(f"train {small} --out runs")
    assert refused.code == 2
    assert "--resume" in refused.err
    assert refused.err.count("\n") == 1
    assert call(f"train {small} --out runs --resume").code == 0
    assert result.exists()


def test_train_that_diverges_ends_in_one_line(call: Call, small: str) -> None:
    ended = call(f"train {small} --lr 1e30")
    assert ended.code == 2
    assert "training diverged" in ended.err
    assert ended.err.count("\n") == 1


def test_compare_with_several_rates_reports_each_method_at_its_own(call: Call, small: str) -> None:
    ended = call(f"compare {small} --methods lora,ailora --seeds 0,1 --lr 1e-2,3e-2 --out out")
    assert ended.code == 0, ended.err
    assert len(finished(ended)) == 8
    assert len(list(Path("out/runs").glob("*/result.json"))) == 8
    assert "report.html" in ended.out
    assert "own best learning rate" in " ".join(ended.out.split())
    assert "AILoRA" in Path("out/report.html").read_text(encoding="utf-8")
    assert not CONTROL.search(ended.out)
    assert ended.err == ""


def test_compare_with_one_rate_says_that_it_ranks_nothing(call: Call, small: str) -> None:
    ended = call(f"compare {small} --methods lora,ailora --seeds 0 --lr 1e-2")
    assert ended.code == 0, ended.err
    assert "No ranking of methods" in ended.out
    assert "No ranking of methods" in Path("comparison/report.html").read_text(encoding="utf-8")


def test_compare_goes_on_after_a_failed_run_and_says_so(call: Call, small: str) -> None:
    ended = call(f"compare {small} --methods lora,ailora --seeds 0 --lr 1e-2,1e30 --out out")
    assert ended.code == 1
    assert len(finished(ended)) == 2
    failures = [
        line for line in ended.out.splitlines() if "failed (diverged): training diverged" in line
    ]
    assert len(failures) == 2
    assert Path("out/report.html").exists()


def test_compare_of_failed_runs_alone_ends_in_one_line(call: Call, small: str) -> None:
    ended = call(f"compare {small} --methods lora --seeds 0 --lr 1e30 --out out")
    assert ended.code == 2
    assert "every run failed; the first: training diverged" in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("out/report.html").exists()


def test_inspect_lists_the_projections_of_the_embedded_model(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    ended = call("inspect demo")
    assert ended.code == 0, ended.err
    assert "encoder.layer.5.attention.self.value" in ended.out
    assert "384 x 384" in ended.out
    assert not CONTROL.search(ended.out)


@pytest.mark.slow
def test_compare_on_the_embedded_model_and_sentences_twice(call: Call) -> None:
    options = "compare --limit 32 --eval-limit 32 --epochs 1 --methods lora,ailora --seeds 0"
    start = "import sys; sys.argv[0] = 'ailora'; from ailora.lab.cli.main import main; main()"
    first = subprocess.run(
        [sys.executable, "-c", start, *options.split()],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert not CONTROL.search(first.stdout)
    assert Path("comparison/report.html").exists()
    written = {
        path: path.stat().st_mtime_ns for path in Path().glob("comparison/runs/*/result.json")
    }
    assert len(written) == 2
    for path in written:
        result = json.loads(path.read_text())
        assert result["step0_deviation"] == 0.0
        assert result["data"]["train"] == 32
        assert result["history"][-1]["loss"] > 0
    second = call(options)
    assert second.code == 0, second.err
    assert "2 runs: 2 finished" in second.out
    assert finished(second) == []
    assert [line for line in second.out.splitlines() if " ± " in line or "AILoRA" in line] == [
        line for line in first.stdout.splitlines() if " ± " in line or "AILoRA" in line
    ]
    assert {path: path.stat().st_mtime_ns for path in written} == written
