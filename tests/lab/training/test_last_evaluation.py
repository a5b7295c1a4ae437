"""A run's last evaluation is its final one where both are of the same rows and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of rows each time that Trainer predicts."""
    rows: list[int] = []
    own = Trainer.predict

    def predict(self: Trainer, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(test_dataset))
        return own(self, test_dataset, *args, **kwargs)

    monkeypatch.setattr(Trainer, "predict", predict)
    return rows


def left_in(folder: Path) -> dict[str, bytes]:
    """Answers and weights of the one run in a folder."""
    paths = (*folder.glob("*/predictions-*.jsonl"), *folder.glob("*/adapter/*.safetensors"))
    assert len(paths) >= 3
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("changes", "again"),
    [({}, False), ({"monitor_rows": 7}, True), ({"early_stopping": 1, "lr": 0.5}, True)],
)
def test_what_was_evaluated_last_is_not_evaluated_again(
    changes: dict[str, Any],
    again: bool,
    config: RunConfig,
    task: TextTask,
    tmp_path: Path,
    predicted: list[int],
) -> None:
    config = replace(config, **changes)
    found = train(config, task, tmp_path / "own")
    assert len(predicted) == (2 if again else 1)
    predicted.clear()
    anew = train(config, task, tmp_path / "anew", callbacks=[TrainerCallback()])
    assert len(predicted) == 2
    assert found["metrics"] == anew["metrics"]
    assert left_in(tmp_path / "own") == left_in(tmp_path / "anew")


class Averaging(TrainerCallback):  # type: ignore[misc]
    """Puts other weights into the model when training ends."""

    @torch.no_grad()
    def on_train_end(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.neg_()


def test_a_callback_that_changes_the_weights_at_the_end_counts(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    found = train(config, task, tmp_path / "own")
    turned = train(config, task, tmp_path / "turned", callbacks=[Averaging()])
    assert turned["metrics"]["selection"] != found["metrics"]["selection"]
    assert turned["history"][-1]["accuracy"] == found["history"][-1]["accuracy"]
