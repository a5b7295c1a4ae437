"""A run that was cut off anywhere goes on to the weights and the curve of one that was not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ailora.errors import UserError
from ailora.lab import methods
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.folder import RunFolder
from tests.checkpoints.models import files
from tests.lab.training.cutting import (
    Break,
    Killed,
    before_the_adapter_is_saved,
    between_a_line_and_its_checkpoint,
    cut_off,
    folder_of,
    in_step,
    in_the_final_evaluation,
    traces,
    while_a_checkpoint_is_written,
)

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
    return replace(config, lora_dropout=0.1, weight_decay=0.01)


@pytest.fixture(scope="module")
def undisturbed(
    dropping: RunConfig, task: TextTask, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed")
    train(dropping, task, out)
    return traces(out)


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
        on_progress=lambda step, count, what: what == "training" and steps.append(step),
    )
    assert steps == list(range(first_again, 19))
    assert traces(tmp_path) == undisturbed


def test_an_adapter_that_is_half_saved_is_not_in_its_place(
    dropping: RunConfig, task: TextTask, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    def half(patch: pytest.MonkeyPatch) -> None:
        inner = methods.save

        def save(model: Any, folder: Path) -> None:
            inner(model, folder)
            if folder_of(tmp_path) in folder.parents:
                (folder / "adapter_config.json").unlink()
                raise Killed

        patch.setattr(methods, "save", save)

    cut_off(dropping, task, tmp_path, half)
    assert not (folder_of(tmp_path) / "adapter").exists()
    train(dropping, task, tmp_path, resume=True)
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


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
def test_a_checkpoint_that_a_crashed_machine_cut_short_is_not_used(
    name: str, dropping: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    cut_off(dropping, task, tmp_path, in_step(14))
    folder = RunFolder(folder_of(tmp_path))
    last = folder.checkpoints / "checkpoint-12"
    assert folder.last_checkpoint() == last
    content = (last / name).read_bytes()
    for length in (0, len(content) // 2, len(content) - 1):
        (last / name).write_bytes(content[:length])
        assert folder.last_checkpoint() == last.with_name("checkpoint-6")


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


def test_a_run_does_not_go_on_with_other_weights_of_its_model(
    config: RunConfig, task: TextTask, tmp_path: Path, tiny_model: Path
) -> None:
    """Half of it would be trained on each."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = replace(config, model=str(model))
    cut_off(config, task, tmp_path / "out", in_step(14))
    whole = load_file(model / "model.safetensors")
    last = max(name for name in whole if name.endswith("query.weight"))
    changed = {**whole, last: whole[last] * 1.01}
    save_file(changed, model / "model.safetensors", metadata={"format": "pt"})
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match="began on other weights of its model"):
        train(config, task, tmp_path / "out", resume=True)
    assert files(tmp_path / "out") == before
    save_file(whole, model / "model.safetensors", metadata={"format": "pt"})
    assert train(config, task, tmp_path / "out", resume=True)["updates"]


def test_a_run_that_goes_on_with_other_packages_says_so(
    config: RunConfig, task: TextTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut_off(config, task, tmp_path, in_step(14))
    about = json.loads((folder_of(tmp_path) / "config.json").read_text())
    about["environment"]["torch"] = "1.0"
    (folder_of(tmp_path) / "config.json").write_text(json.dumps(about))
    train(config, task, tmp_path, resume=True)
    assert "other versions than it began with (torch 1.0, now" in caplog.text
