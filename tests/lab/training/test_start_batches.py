"""The training rows that methods which start from data are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ailora.lab.methods.table import Batches, Build
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, run, train
from tests.lab.training.building import build_through


def sizes_shown(config: RunConfig, task: TextTask, out: Path) -> list[int]:
    """Rows of each batch that a method could look at."""
    found: list[int] = []

    def watched(build: Build, model: nn.Module, asked: RunConfig, batches: Batches) -> Any:
        found.extend(len(batch["input_ids"]) for batch in batches())
        return build(model, asked, batches)

    with pytest.MonkeyPatch.context() as patch:
        build_through(patch, watched)
        train(config, task, out)
    return found


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(24, [24, 24]), (48, [48]), (64, [48]), (20, [16, 16, 16]), (47, [24, 24])],
)
def test_all_of_few_rows_are_shown_in_batches_of_like_size(
    batch_size: int, sizes: list[int], config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    assert sizes_shown(replace(config, epochs=0.1, batch_size=batch_size), task, tmp_path) == sizes


def test_of_many_rows_full_batches_are_shown(
    config: RunConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "START_BATCHES", 3)
    assert sizes_shown(replace(config, epochs=0.1, batch_size=10), task, tmp_path) == [10, 10, 10]


@pytest.mark.parametrize("method", ["eva", "lora_ga"])
def test_a_start_from_data_works_with_fewer_rows_than_a_batch(
    method: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result = train(replace(config, method=method, epochs=1, batch_size=64), task, tmp_path)
    assert result["step0_deviation"] < 1e-5
