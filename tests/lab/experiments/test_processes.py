"""Sweeps as real processes: several on one store, and some that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.jobs import Tasks
from ailora.lab.experiments.sweep_file import read_sweep_file
from ailora.lab.training import RunConfig
from tests.lab.experiments.conftest import timeless

AILORA = Path(sys.executable).with_name("ailora")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


def plan(folder: Path, common: RunConfig, seeds: int) -> Path:
    """Three rates, the last of which diverges."""
    path = folder / "sweep.toml"
    names = ("model", "task", "rank", "epochs", "batch_size", "limit", "eval_limit", "max_length")
    lines = [f"{name} = {json.dumps(getattr(common, name))}" for name in names]
    lines = [line for line in lines if not line.endswith("null")]
    grid = f"[grid]\nmethod = ['lora', 'ailora']\nseed = {list(range(seeds))}\nlr = [1e-2, 1e30]\n"
    path.write_text("[common]\n" + "\n".join(lines) + f"\n{grid}")
    return path


def test_two_processes_on_one_store_do_each_run_once(tiny: RunConfig, tmp_path: Path) -> None:
    file, log = plan(tmp_path, tiny, seeds=2), tmp_path / "log"
    arguments = [sys.executable, "-m", "tests.lab.experiments.racing", file, tmp_path / "out", log]
    started = [
        subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate(timeout=120)[0] for run in started] == ["4 finished, 4 failed\n"] * 2
    begun = [line.split() for line in log.read_text().splitlines()]
    assert Counter(Counter(run for _, run in begun).values()) == {1: 8}
    assert len({pid for pid, _ in begun}) == 2, "both had work"
    assert Counter(run.state for run in Store(tmp_path / "out").runs()) == {
        "finished": 4,
        "failed": 4,
    }


def killed_and_resumed(file: Path, out: Path, *, seed: int, times: int) -> list[int]:
    """Start a sweep, kill it at a random moment of its work, so often; then let it end.

    Returns the number of runs that each start found finished.
    """
    draw, found = random.Random(seed), []  # noqa: S311
    command = [AILORA, "sweep", file, "--out", out, "--workers", "2", "--threads", "1"]
    for attempt in range(times + 1):
        found.append(len(list(out.glob("*/result.json"))))
        begun = set(out.glob("*/config.json"))
        with subprocess.Popen(
            [*map(str, command), "--no-estimate"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        ) as run:
            if attempt < times:
                while run.poll() is None and not set(out.glob("*/config.json")) - begun:
                    time.sleep(0.02)  # until it has begun something
                time.sleep(draw.random() * 2)
                run.send_signal(signal.SIGKILL)
            said = run.communicate(timeout=200)
    assert run.returncode == 1, said
    assert said[0].count("failed (diverged): training diverged") >= 2
    assert "Traceback" not in said[1]
    return found


def check_as_undisturbed(file: Path, out: Path, undisturbed: Path) -> None:
    runs, tasks = distinct(read_sweep_file(file)), Tasks()
    expected = sweep(runs, Store(undisturbed), Here(tasks), tasks=tasks)
    found = sweep(runs, Store(out), Here(tasks), tasks=tasks)
    assert [timeless(run) for run in found.runs] == [timeless(run) for run in expected.runs]
    assert found.failed == expected.failed
    assert found.rates == expected.rates
    left = [path for path in out.glob("*/*") if path.name.startswith(("lock", "checkpoints"))]
    finished = {path.parent for path in out.glob("*/result.json")}
    assert [path for path in left if path.parent in finished] == []


def test_a_sweep_killed_three_times_ends_as_an_undisturbed_one(
    tiny: RunConfig, tmp_path: Path
) -> None:
    file = plan(tmp_path, replace(tiny, epochs=12), seeds=1)
    killed_and_resumed(file, tmp_path / "out", seed=0, times=3)
    check_as_undisturbed(file, tmp_path / "out", tmp_path / "undisturbed")


def test_a_sweep_that_is_terminated_leaves_a_checkpoint_of_the_step_it_was_at(
    tiny: RunConfig, tmp_path: Path
) -> None:
    """Its one evaluation would be at the end, so no other checkpoint can be there."""
    file, out = plan(tmp_path, replace(tiny, epochs=2000), seeds=1), tmp_path / "out"
    file.write_text(file.read_text().replace("[grid]", "evaluations = 1\n[grid]"))
    command = [AILORA, "sweep", file, "--out", out, "--workers", "1", "--threads", "1"]
    with subprocess.Popen(
        [*map(str, command), "--no-estimate"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as run:
        while run.poll() is None and not list(out.glob("*/metrics.jsonl")):
            time.sleep(0.02)
        time.sleep(0.5)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=100)
    assert run.returncode == 143
    assert said.splitlines()[-1].startswith("ailora: terminated; what is finished is kept in ")
    (checkpoint,) = out.glob("*/checkpoints/checkpoint-*/trainer_state.json")
    assert json.loads(checkpoint.read_text())["global_step"] > 0
    assert not list(out.glob("*/lock.json"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sweep_on_real_sentences_killed_three_times(seed: int, tmp_path: Path) -> None:
    common = RunConfig(limit=64, eval_limit=64, max_length=32, epochs=1)
    file = plan(tmp_path, common, seeds=6)  # 24 runs
    killed_and_resumed(file, tmp_path / "out", seed=seed, times=3)
    check_as_undisturbed(file, tmp_path / "out", tmp_path / "undisturbed")
