"""SIGTERM or SIGHUP while a run trains: a checkpoint of that step, and the same end later."""

from __future__ import annotations

import fcntl
import math
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.folder import RunFolder
from ailora.termination import Terminated, at_once, on_request
from tests.lab.training.cutting import folder_of, traces

START = "from ailora.lab.cli.main import main; main()"


class Terminating(TrainerCallback):
    """Sends a signal to this very process, once, at an event of one step."""

    def __init__(self, event: str, step: int, number: int = signal.SIGTERM) -> None:
        steps = [step]

        def send(args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in steps:
                steps.clear()
                os.kill(os.getpid(), number)

        setattr(self, event, send)


def same_but_for_sums(found: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Equal, but that the mean loss of a line that was cut in two is summed in another order."""
    for one, other in zip(found["history"], whole["history"], strict=True):
        if one["loss"] is not None:
            assert math.isclose(one.pop("loss"), other.pop("loss"), rel_tol=1e-6)
    return found == whole


@pytest.mark.parametrize(
    ("event", "step", "kept"),
    [
        ("on_step_begin", 0, 1),
        ("on_step_begin", 3, 4),
        ("on_step_end", 6, 6),  # where there is an evaluation and a checkpoint anyway
        ("on_step_begin", 9, 10),
        ("on_prediction_step", 12, 12),
        ("on_save", 12, 12),
        ("on_step_end", 18, 18),
    ],
)
def test_a_run_that_is_terminated_leaves_its_step_and_ends_the_same(
    event: str, step: int, kept: int, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    asked = replace(config, lora_dropout=0.1)
    train(asked, task, tmp_path / "whole")
    with pytest.raises(Terminated) as ended:
        train(asked, task, tmp_path / "cut", callbacks=[Terminating(event, step)])
    assert ended.value.code == 143
    folder = RunFolder(folder_of(tmp_path / "cut"))
    checkpoint = folder.last_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{kept}"
    assert not (folder.path / "lock.json").exists()
    steps: list[int] = []
    train(asked, task, tmp_path / "cut", resume=True, on_progress=_noted(steps))
    assert steps == list(range(kept + 1, 19))
    assert same_but_for_sums(traces(tmp_path / "cut"), traces(tmp_path / "whole"))


def test_a_hang_up_leaves_its_step_too(config: RunConfig, task: TextTask, tmp_path: Path) -> None:
    with pytest.raises(Terminated) as ended:
        train(config, task, tmp_path, callbacks=[Terminating("on_step_begin", 3, signal.SIGHUP)])
    assert ended.value.code == 129
    folder = RunFolder(folder_of(tmp_path))
    assert folder.last_checkpoint() == folder.checkpoints / "checkpoint-4"
    assert not (folder.path / "lock.json").exists()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals")
def test_a_terminal_that_is_closed_leaves_a_step(config: RunConfig, tmp_path: Path) -> None:
    """The terminal is gone then: whatever is printed fails, and must not end what is saved."""
    ours, theirs = os.openpty()
    line = f"train --model {config.model} --task {config.task} --rank 2 --epochs 40 --batch-size 8"
    running = subprocess.Popen(
        [sys.executable, "-c", START, *line.split(), "--out", str(tmp_path / "out")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    shown, until = b"", time.monotonic() + 120
    while not list(tmp_path.glob("out/*/metrics.jsonl")) and time.monotonic() < until:
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 1 << 16)
    os.close(ours)
    assert running.wait(120) == 129, shown.decode("utf-8", "replace")
    folder = RunFolder(folder_of(tmp_path / "out"))
    assert folder.last_checkpoint() is not None
    assert not (folder.path / "lock.json").exists()


def test_under_nohup_it_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with at_once(), on_request() as request:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not request.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_run_left_that_was_killed_right_after_its_result_is_cleared_away(
    config: RunConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(config, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("ailora.lab.training.folder.shutil.rmtree", lambda *_, **__: None)
        result = train(short, task, tmp_path)
    folder = RunFolder(folder_of(tmp_path))
    assert folder.checkpoints.exists()
    assert train(short, task, tmp_path) == result
    assert not folder.checkpoints.exists()
    assert not (folder.path / "lock.json").exists()


def test_terminated_twice_in_one_interval_no_step_is_lost_from_its_line(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    train(config, task, tmp_path / "whole")
    for step in (7, 9):
        with pytest.raises(Terminated):
            stop = Terminating("on_step_end", step)
            train(config, task, tmp_path / "cut", resume=True, callbacks=[stop])
    train(config, task, tmp_path / "cut", resume=True)
    assert same_but_for_sums(traces(tmp_path / "cut"), traces(tmp_path / "whole"))


def _noted(steps: list[int]) -> Callable[[int, int, str], object]:
    return lambda step, count, what: what == "training" and steps.append(step)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_at_once(second: int) -> None:
    with pytest.raises(Terminated) as ended, on_request() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked
        os.kill(os.getpid(), second)
        pytest.fail("it went on")
    assert ended.value.code == 128 + second


def test_a_request_that_nobody_acted_on_ends_afterwards() -> None:
    done = False
    with pytest.raises(Terminated), at_once(), on_request():
        os.kill(os.getpid(), signal.SIGTERM)
        done = True
    assert done
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_program_itself_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with at_once(), on_request() as request:
            os.kill(os.getpid(), signal.SIGTERM)
        assert (heard, request.asked) == ([signal.SIGTERM], False)
    finally:
        signal.signal(signal.SIGTERM, before)
