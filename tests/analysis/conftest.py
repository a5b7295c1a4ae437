"""One thread, and what several tests plant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ailora.tasks import load_task
from ailora.training import RunConfig, train
from tests.conftest import one_thread


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def runs(
    tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A finished run of each kind of method, on one task with one seed."""
    out, found = tmp_path_factory.mktemp("runs"), {}
    with one_thread():
        for method in ("ailora", "lora", "vera", "bitfit", "houlsby", "full"):
            config = RunConfig(
                method=method,
                model=str(tiny_model),
                task=str(reviews),
                rank=2,
                vera_rank=8,
                bottleneck=4,
                lr=1e-3 if method == "full" else 2e-2,
                epochs=1,
                batch_size=8,
            )
            data = load_task(config.task, **config.task_options())
            train(config, data, out)
            found[method] = out / config.run_id(data.name, data.fingerprint)
    return found
