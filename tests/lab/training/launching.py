"""Starts ``ailora train`` in one process or several, and reads what the run left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

AILORA = str(Path(sys.executable).with_name("ailora"))


def launched(out: Path, options: str, *launcher: str, **environment: str) -> Any:
    """The finished process of one run; a launcher ends with what stands for `ailora`."""
    command = [*(launcher or (AILORA,)), "train", *options.split(), "--precision", "fp32"]
    return subprocess.run(
        [*command, "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,  # two processes begin after 20 s of processor time: minutes on a busy machine
    )


def trained(out: Path, options: str, *launcher: str) -> Path:
    """The folder of the run, which must succeed."""
    done = launched(out, options, *launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = out.iterdir()
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Whatever the method saved."""
    files = sorted((folder / "adapter").glob("*.safetensors"))
    return {name: value for path in files for name, value in load_file(path).items()}


def farthest(one: Path, other: Path) -> float:
    """Greatest difference of two runs' weights."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)
