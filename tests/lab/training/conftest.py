"""Runs small enough for a test: a second each, on one thread so that sums keep their order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ailora.lab.tasks import TextTask, load_task
from ailora.lab.training import RunConfig
from tests.conftest import one_thread, sentences, write_csv


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


@pytest.fixture(scope="session")
def feelings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 training rows: the last batch of 4 holds one, so a process alone has none of its own."""
    folder = tmp_path_factory.mktemp("data") / "feelings"
    for seed, (part, count) in enumerate((("train", 29), ("dev", 11), ("test", 13))):
        rows = [(text, "pos" if n > 0 else "neg") for text, n in sentences(count, seed=seed)]
        write_csv(folder / f"{part}.csv", ("text", "label"), rows)
    return folder


@pytest.fixture(scope="session")
def plain_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without dropout, which each process would draw for itself."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "plain")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
