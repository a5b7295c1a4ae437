"""Runs small enough for a test: a second each, on one thread so that sums keep their order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ailora.tasks import TextTask, load_task
from ailora.training import RunConfig
from tests.conftest import one_thread


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def config(tiny_model: Path, reviews: Path) -> RunConfig:
    """Three epochs of six steps."""
    return RunConfig(
        model=str(tiny_model), task=str(reviews), rank=2, lr=5e-2, epochs=3, batch_size=8
    )


@pytest.fixture(scope="session")
def task(config: RunConfig) -> TextTask:
    """The task of ``config``."""
    return load_task(config.task, **config.task_options())
