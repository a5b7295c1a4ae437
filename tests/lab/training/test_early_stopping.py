"""A run that stops early keeps its best weights, and resumes as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from tests.lab.training.cutting import (
    before_the_adapter_is_saved,
    cut_off,
    in_step,
    traces,
)


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
