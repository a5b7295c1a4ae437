"""The script for a GPU, on a processor at tiny sizes: every part of it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/on_gpu.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_part_runs_and_its_figures_are_written(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    parts = ("decompositions", "start", "training")  # the tests are run by pytest here anyway
    done = script("--device", "cpu", "--small", "--out", str(out), "--parts", *parts)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["parts"]
    assert tuple(found) == parts
    assert not [row for rows in found.values() for row in rows if "failed" in row]
    errors = {}
    for row in found["decompositions"]:
        if "error" in row:
            errors.setdefault(row["method"], []).append(row["error"])
    assert max(errors["ailora"]) < 1e-6 < max(errors["svd_lowrank, niter 4"])
    assert [row["step 0 exact"] for row in found["start"]] == [True, True]
    assert [row["steps"] for row in found["training"]] == [4, 4, 4, 4]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_how_to_try_it() -> None:
    done = script()
    assert done.returncode == 2
    assert "--device cpu --small" in done.stderr.splitlines()[-1]
