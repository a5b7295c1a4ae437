"""Ways to cut a run off, and what must not differ afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import Trainer

from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.folder import RunFolder
from ailora.lab.training.kinds import Scored
from ailora.lab.training.kinds.classification import Classification

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
        "marker": (folder / "adapter" / "ailora.json").read_bytes(),
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

    patch.setattr(Classification, "majority", stop)


def before_the_adapter_is_saved(patch: pytest.MonkeyPatch) -> None:
    inner = Classification.final

    def stop(self: Classification, trainer: Trainer, rows: Dataset, **rest: Any) -> Scored:
        if rows is self.task.test:
            raise Killed
        return inner(self, trainer, rows, **rest)

    patch.setattr(Classification, "final", stop)


def cut_off(config: RunConfig, task: TextTask, out: Path, where: Break) -> None:
    with pytest.MonkeyPatch.context() as patch:
        where(patch)
        with pytest.raises(Killed):
            train(config, task, out)
    assert not (folder_of(out) / "result.json").exists()
