"""Runs on Ray; what a node does and what comes back is tested without it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.jobs import Elsewhere, Ended, Event, Tasks
from ailora.lab.training import RunConfig
from ailora.lock import held
from ailora.termination import kept
from tests.lab.experiments.conftest import at, timeless

ray = pytest.importorskip("ray")
engine = pytest.importorskip("ailora.lab.experiments.engines.ray")


@pytest.fixture(scope="module")
def expected(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    store = Store(tmp_path_factory.mktemp("here"))
    return sweep(four[:1], store, Here(tasks), tasks=tasks).runs[0]


@pytest.mark.parametrize("shared", [True, False])
def test_a_node_works_in_the_store_or_sends_the_run_s_folder(
    shared: bool,
    four: tuple[RunConfig, ...],
    tasks: Tasks,
    expected: dict[str, Any],
    tmp_path: Path,
) -> None:
    job, store = tasks.job(four[0]), Store(tmp_path)
    (tmp_path / "seen").touch()
    words = engine.do_on_node(
        asdict(job.config), job.run_id, str(tmp_path), "seen" if shared else "unseen", 1
    )
    assert ("files" in words) is not shared
    assert store.read(job.run_id).state == ("finished" if shared else "unknown")
    event = engine.take(job, words, store)
    assert isinstance(event, Ended)
    assert timeless(event.result) == timeless(expected)
    found = store.read(job.run_id)
    assert found.result == event.result
    names = {path.relative_to(tmp_path / job.run_id).as_posix() for path in tmp_path.rglob("*/*")}
    assert {"config.json", "metrics.jsonl", "adapter/adapter_model.safetensors"} <= names
    assert "lock.json" not in names


def test_a_failure_far_away_is_written_down_here(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path
) -> None:
    job, store = tasks.job(at(four[0], lr=1e30)), Store(tmp_path)
    words = engine.do_on_node(asdict(job.config), job.run_id, str(tmp_path), "unseen", 1)
    event = engine.take(job, words, store)
    found = store.failure(job.run_id)
    assert found is not None
    assert found.kind == "diverged"
    assert event == Ended(job, found)


def test_what_comes_back_does_not_get_in_the_way_of_another_process(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = tasks.job(four[0]), Store(tmp_path)
    words = {"result": {}, "files": {"result.json": b"{}"}}
    with held(tmp_path / job.run_id) as mine:
        monkeypatch.setattr("ailora.lock._HELD", {})  # as if that were another process
        event = engine.take(job, words, store)
        assert isinstance(event, Elsewhere)
        assert str(mine.owner) in event.owner
        assert not (tmp_path / job.run_id / "result.json").exists()
        monkeypatch.undo()


@pytest.mark.parametrize("numbers", [{"cpus_per_run": 0}, {"gpus_per_run": -1}])
def test_resources_out_of_their_range_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(UserError, match="per_run="):
        engine.OnRay(**numbers)


def test_a_cluster_that_is_not_there_is_bad_input(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        engine.OnRay("127.0.0.1:1").run([tasks.job(four[0])], Store(tmp_path), print)


@pytest.fixture
def _ray() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_sweep_on_ray_ends_as_in_this_process(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    runs = (*four[:2], at(four[0], lr=1e30))
    here = sweep(runs, Store(tmp_path / "here"), Here(tasks), tasks=tasks)
    events: list[Event] = []
    store = Store(tmp_path / "there")
    there = sweep(runs, store, engine.OnRay(), tasks=tasks, on_event=events.append)
    assert [timeless(run) for run in there.runs] == [timeless(run) for run in here.runs]
    assert there.failed == here.failed
    assert len(events) == 3
    assert not list(store.path.glob(".ray-*"))
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is before  # else SIGTERM would end with Ray's code
    again = sweep(runs, store, engine.OnRay(), tasks=tasks)
    assert again == there
    with pytest.raises(UserError, match="1000 GPU"):
        sweep([at(four[0], seed=5)], store, engine.OnRay(gpus_per_run=1000), tasks=tasks)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that does nothing, to which a test adds nodes; all of them on this machine."""
    from ray.cluster_utils import Cluster

    with kept():  # a node in this process takes SIGTERM for itself
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        yield found
        ray.shutdown()
        found.shutdown()


def killed_in_a_run(cluster: Any, node: Any, store: Store, seen: list[int]) -> None:
    """Kill a node as soon as both are at work; ``seen`` gets the number of runs not finished."""
    until = time.monotonic() + 300
    while time.monotonic() < until and len(list(store.path.glob("*/metrics.jsonl"))) < 2:
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    seen.append(sum(run.result is None for run in store.runs()))


@pytest.mark.slow
def test_a_node_that_is_killed_in_a_sweep_loses_nothing(
    four: tuple[RunConfig, ...], tasks: Tasks, tmp_path: Path, cluster: Any
) -> None:
    runs = [at(one, epochs=10) for one in four[:3]]
    here = sweep(runs, Store(tmp_path / "here"), Here(tasks), tasks=tasks)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    store, seen = Store(tmp_path / "there"), list[int]()
    killer = threading.Thread(target=killed_in_a_run, args=(cluster, nodes[0], store, seen))
    killer.start()
    there = sweep(runs, store, engine.OnRay(cluster.address), tasks=tasks)
    killer.join()
    assert seen[0] >= 2  # both were at work
    assert there.failed == ()
    assert [timeless(run) for run in there.runs] == [timeless(run) for run in here.runs]
    assert [run.state for run in store.runs()] == ["finished"] * len(runs)
    assert not list(store.path.glob("*/lock.json*"))
