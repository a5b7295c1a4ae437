"""A process that is really killed, and the command line that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from tests.lab.training.cutting import (
    folder_of,
    traces,
)


def command(config: RunConfig, out: Path, *more: str) -> list[str]:
    options = [
        f"--{name.replace('_', '-')}={getattr(config, name)}"
        for name in ("model", "task", "rank", "lr", "epochs", "batch_size", "lora_dropout")
    ]
    start = "import sys; from ailora.lab.cli.main import main; sys.argv[0] = 'ailora'; main()"
    return [sys.executable, "-c", start, "train", *options, f"--out={out}", *more]


def kill_after_first_checkpoint(config: RunConfig, out: Path, env: dict[str, str]) -> None:
    process = subprocess.Popen(
        command(config, out), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list(out.glob("*/checkpoints/checkpoint-*/trainer_state.json")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_run_killed_with_kill_9_resumes_from_the_command_line_to_the_same_bits(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    asked = replace(config, epochs=20, lora_dropout=0.1)
    train(asked, task, tmp_path / "whole")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    kill_after_first_checkpoint(asked, tmp_path / "killed", env)
    assert not list((tmp_path / "killed").glob("*/result.json"))
    subprocess.run(
        command(asked, tmp_path / "killed", "--resume"), env=env, check=True, capture_output=True
    )
    assert folder_of(tmp_path / "killed").name == folder_of(tmp_path / "whole").name
    assert traces(tmp_path / "killed") == traces(tmp_path / "whole")
