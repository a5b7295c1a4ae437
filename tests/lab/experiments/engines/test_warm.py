"""A worker does many runs; each must end as `ailora train` alone in a new process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.local import Local
from ailora.lab.experiments.jobs import Tasks
from ailora.lab.training import RunConfig
from tests.lab.experiments.conftest import at, timeless

TRAIN = "from ailora.lab.cli.main import main; main()"
NAMES = ("method", "model", "task", "rank", "epochs", "batch_size", "lr", "seed", "precision")


def alone(config: RunConfig, out: Path) -> None:
    """The run by the command, in a process that does nothing else."""
    options: list[str] = []
    for name in NAMES:
        options += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    subprocess.run(
        [sys.executable, "-c", TRAIN, "train", *options, "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=200,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Weights and answers."""
    paths = (*folder.glob("adapter/*.safetensors"), *folder.glob("predictions-*.jsonl"))
    return {path.name: path.read_bytes() for path in paths}


def test_nothing_goes_from_one_run_of_a_worker_to_the_next(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path
) -> None:
    first: dict[str, Any] = {"seed": 3, "precision": "fp32"}
    before = (  # other seeds, precisions and methods; one that diverges, one that is refused
        at(four[0], **first, method="full", lr=1e-3),
        at(four[0], **first, lr=1e30),
        at(four[0], **first, rank=33),
        at(four[0], **first, method="houlsby"),
        at(four[0], precision="bf16", optim="sgd", lora_dropout=0.3),
        at(four[1], early_stopping=1, epochs=3),
        at(four[0], precision="bf16", seed=1),  # of the same base and head, which are shared
    )
    asked = at(four[1], precision="bf16", seed=1)
    warm = Store(tmp_path / "warm")
    found = sweep((*before, asked), warm, Local(1, 1), tasks=tasks)
    assert [failed.kind for failed in found.failed] == ["diverged", "input"]
    alone(asked, tmp_path / "alone")
    name = tasks.job(asked).run_id
    new = Store(tmp_path / "alone").read(name).result
    assert new is not None
    assert timeless(found.runs[-1]) == timeless(new)
    expected = files_of(tmp_path / "alone" / name)
    assert len(expected) == 3
    assert files_of(warm.path / name) == expected
