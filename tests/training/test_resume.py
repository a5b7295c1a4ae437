"""A run that was cut off anywhere goes on to the weights and the curve of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from ailora.errors import UserError
from ailora.tasks import TextTask
from ailora.training import RunConfig, run, train
from ailora.training.folder import RunFolder

Break = Callable[[pytest.MonkeyPatch], None]


class Killed(BaseException):
    """What no `except` of the code under test may catch."""


def folder_of(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def traces(out: Path) -> dict[str, Any]:
    """What must not differ: weights to the bit, scores, and the curve but for its seconds."""
    folder = folder_of(out)
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == result["history"]
    for line in lines:
        assert line.pop("seconds") >= 0
    return {
        "adapter": (folder / "adapter" / "adapter_model.safetensors").read_bytes(),
        "anchor": (folder / "adapter" / "ailora_anchor.safetensors").read_bytes(),
        "history": lines,
        "updates": result["updates"],
        **{name: result[name] for name in ("metrics", "parameters", "step0_deviation")},
    }


def in_step(step: int) -> Break:
    def arrange(patch: pytest.MonkeyPatch) -> None:
        inner = Trainer.training_step

        def stop(self: Trainer, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == step - 1:
                raise Killed
            return inner(self, *args, **kwargs)

        patch.setattr(Trainer, "training_step", stop)

    return arrange


def between_a_line_and_its_checkpoint(patch: pytest.MonkeyPatch) -> None:
    inner = RunFolder.log

    def stop(self: RunFolder, entry: dict[str, Any]) -> None:
        inner(self, entry)
        if entry["step"] == 12:
            raise Killed

    patch.setattr(RunFolder, "log", stop)


def while_a_checkpoint_is_written(patch: pytest.MonkeyPatch) -> None:
    inner = Trainer._save_rng_state

    def stop(self: Trainer, folder: str) -> None:
        if self.state.global_step == 12:
            raise Killed
        inner(self, folder)

    patch.setattr(Trainer, "_save_rng_state", stop)


def in_the_final_evaluation(patch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise Killed

    patch.setattr(run, "majority_score", stop)


def before_the_adapter_is_saved(patch: pytest.MonkeyPatch) -> None:
    inner = Trainer.evaluate

    def stop(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("metric_key_prefix") == "test":
            raise Killed
        return inner(self, *args, **kwargs)

    patch.setattr(Trainer, "evaluate", stop)


BREAKS: dict[str, tuple[Break, int]] = {  # and the first step that is made again
    "before the first checkpoint": (in_step(4), 1),
    "right after a checkpoint": (in_step(7), 7),
    "within the second epoch": (in_step(10), 7),
    "between a line and its checkpoint": (between_a_line_and_its_checkpoint, 7),
    "while a checkpoint is written": (while_a_checkpoint_is_written, 7),
    "before the adapter is saved": (before_the_adapter_is_saved, 19),
    "in the final evaluation": (in_the_final_evaluation, 19),
}


@pytest.fixture(scope="module")
def dropping(config: RunConfig) -> RunConfig:
    """With dropout in the adapter, so that a wrong random state shows."""
    return replace(config, dropout=0.1, weight_decay=0.01)


@pytest.fixture(scope="module")
def undisturbed(
    dropping: RunConfig, task: TextTask, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed")
    train(dropping, task, out)
    return traces(out)


def cut_off(config: RunConfig, task: TextTask, out: Path, where: Break) -> None:
    with pytest.MonkeyPatch.context() as patch:
        where(patch)
        with pytest.raises(Killed):
            train(config, task, out)
    assert not (folder_of(out) / "result.json").exists()


@pytest.mark.parametrize("where", BREAKS)
def test_a_run_cut_off_ends_as_if_it_had_not_been(
    where: str,
    dropping: RunConfig,
    task: TextTask,
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    at, first_again = BREAKS[where]
    cut_off(dropping, task, tmp_path, at)
    steps: list[int] = []
    train(
        dropping,
        task,
        tmp_path,
        resume=True,
        on_progress=lambda step, count, what: steps.append(step),
    )
    assert steps == list(range(first_again, 19))
    assert traces(tmp_path) == undisturbed


def test_a_run_cut_off_twice_ends_the_same(
    dropping: RunConfig, task: TextTask, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    cut_off(dropping, task, tmp_path, in_step(8))
    with pytest.MonkeyPatch.context() as patch:
        in_step(15)(patch)
        with pytest.raises(Killed):
            train(dropping, task, tmp_path, resume=True)
    train(dropping, task, tmp_path, resume=True)
    assert traces(tmp_path) == undisturbed


def test_a_run_resumed_within_an_epoch_sees_the_same_rows(
    dropping: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    often = replace(dropping, evaluations=9)
    train(often, task, tmp_path / "whole")
    cut_off(often, task, tmp_path / "cut", in_step(11))
    (kept,) = folder_of(tmp_path / "cut").glob("checkpoints/checkpoint-10")
    assert json.loads((kept / "trainer_state.json").read_text())["global_step"] % 6 != 0
    train(often, task, tmp_path / "cut", resume=True)
    assert traces(tmp_path / "cut") == traces(tmp_path / "whole")


def test_another_seed_would_be_seen(
    dropping: RunConfig, task: TextTask, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    train(replace(dropping, seed=1), task, tmp_path)
    other = traces(tmp_path)
    assert other["adapter"] != undisturbed["adapter"]
    assert other["history"] != undisturbed["history"]


@pytest.mark.parametrize("content", ["", '{"global_step": 12'], ids=["empty", "truncated"])
def test_a_half_written_checkpoint_is_not_used(
    content: str, dropping: RunConfig, task: TextTask, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    cut_off(dropping, task, tmp_path, in_step(10))
    half = folder_of(tmp_path) / "checkpoints" / "checkpoint-12"
    half.mkdir()
    (half / "trainer_state.json").write_text(content)
    assert RunFolder(folder_of(tmp_path)).last_checkpoint() == half.with_name("checkpoint-6")
    train(dropping, task, tmp_path, resume=True)
    assert traces(tmp_path) == undisturbed


def test_a_truncated_last_line_is_written_again(
    dropping: RunConfig, task: TextTask, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    cut_off(dropping, task, tmp_path, between_a_line_and_its_checkpoint)
    lines = folder_of(tmp_path) / "metrics.jsonl"
    lines.write_bytes(lines.read_bytes()[:-9])
    train(dropping, task, tmp_path, resume=True)
    assert traces(tmp_path) == undisturbed


def test_an_unfinished_run_is_not_overwritten_unasked(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    cut_off(config, task, tmp_path, in_step(8))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"holds an unfinished run .*--resume"):
        train(config, task, tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("content", ["", '{"config": {', "[]", "{}"])
def test_a_result_that_is_not_whole_is_an_unfinished_run(
    content: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    asked = replace(config, epochs=1)
    whole = train(asked, task, tmp_path)
    (folder_of(tmp_path) / "result.json").write_text(content)
    with pytest.raises(UserError, match="unfinished"):
        train(asked, task, tmp_path)
    assert train(asked, task, tmp_path, resume=True)["metrics"] == whole["metrics"]


def test_a_resumed_run_counts_the_seconds_of_both_parts(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    cut_off(config, task, tmp_path, in_step(14))
    path = folder_of(tmp_path) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["seconds"] = 100.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = train(config, task, tmp_path, resume=True)
    assert 100 < result["seconds"]["train"] < 130


# Early stopping ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopping(config: RunConfig) -> RunConfig:
    """Evaluated every second step and stopped at the second worse score: long before its end."""
    return replace(config, epochs=6, evaluations=18, early_stopping=2)


@pytest.fixture(scope="module")
def stopped(
    stopping: RunConfig, task: TextTask, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("stopped")
    train(stopping, task, out)
    return traces(out)


def scores(history: list[dict[str, Any]]) -> list[float]:
    return [line["accuracy"] for line in history[1:]]


def test_early_stopping_ends_the_run_and_keeps_the_best_weights(stopped: dict[str, Any]) -> None:
    curve = scores(stopped["history"])
    best = curve.index(max(curve))
    assert len(curve) == best + 3 < 18
    assert curve[-1] < max(curve), "the last weights would do as well"
    assert stopped["metrics"]["selection"]["accuracy"] == max(curve)


@pytest.mark.parametrize("where", ["within", "before the adapter is saved"])
def test_a_run_that_stops_early_resumes_as_well(
    where: str, stopping: RunConfig, task: TextTask, stopped: dict[str, Any], tmp_path: Path
) -> None:
    last = stopped["history"][-1]["step"]
    cut_off(
        stopping,
        task,
        tmp_path,
        in_step(last) if where == "within" else before_the_adapter_is_saved,
    )
    train(stopping, task, tmp_path, resume=True)
    assert traces(tmp_path) == stopped


# A real kill ---------------------------------------------------------------------------------


def command(config: RunConfig, out: Path, *more: str) -> list[str]:
    options = [
        f"--{name.replace('_', '-')}={getattr(config, name)}"
        for name in ("model", "task", "rank", "lr", "epochs", "batch_size", "dropout")
    ]
    start = "import sys; from ailora.cli.main import main; sys.argv[0] = 'ailora'; main()"
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
    config: RunConfig, tmp_path: Path
) -> None:
    asked = replace(config, epochs=40, dropout=0.1)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command(asked, tmp_path / "whole"), env=env, check=True, capture_output=True)
    kill_after_first_checkpoint(asked, tmp_path / "killed", env)
    refused = subprocess.run(
        command(asked, tmp_path / "killed"), env=env, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    subprocess.run(
        command(asked, tmp_path / "killed", "--resume"), env=env, check=True, capture_output=True
    )
    assert traces(tmp_path / "killed") == traces(tmp_path / "whole")
