"""Runs small enough for a test, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ailora.lab import training
from ailora.lab.experiments.grid import Grid
from ailora.lab.experiments.jobs import Ended, Event, Tasks
from ailora.lab.experiments.store import Failure
from ailora.lab.training import RunConfig, train
from tests.conftest import one_thread

Break = Callable[[int, BaseException], None]


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="package")
def tiny(tiny_model: Path, reviews: Path) -> RunConfig:
    """A run of less than a second."""
    return RunConfig(model=str(tiny_model), task=str(reviews), rank=2, epochs=1, batch_size=8)


@pytest.fixture(scope="package")
def four(tiny: RunConfig) -> tuple[RunConfig, ...]:
    """Two methods at two rates."""
    axes = {"lr": (1e-2, 2e-2), "method": ("lora", "ailora")}
    return tuple(Grid(common=tiny, axes=axes).runs())


@pytest.fixture(scope="package")
def tasks() -> Tasks:
    """Data is read once for all tests."""
    return Tasks()


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Let the n-th training from now (from 0) in this process raise."""

    def set_up(at: int, error: BaseException) -> None:
        calls = iter(range(100))

        def stub(*args: Any, **kwargs: Any) -> dict[str, Any]:
            if next(calls) == at:
                raise error
            return train(*args, **kwargs)

        monkeypatch.setattr(training, "train", stub)

    return set_up


def ended(events: list[Event], *, before: bool = False) -> list[str]:
    """Names of the runs that were told as ended."""
    return [e.job.run_id for e in events if isinstance(e, Ended) and e.before is before]


def timeless(result: dict[str, Any] | Failure) -> dict[str, Any]:
    """All of a result that does not depend on when and how fast it was made."""
    assert not isinstance(result, Failure), result.reason
    kept = {name: value for name, value in result.items() if name not in ("seconds", "history")}
    history = [{k: v for k, v in line.items() if k != "seconds"} for line in result["history"]]
    return kept | {"history": history}


def at(config: RunConfig, **changes: Any) -> RunConfig:
    """`dataclasses.replace`, for short."""
    return replace(config, **changes)
