"""Runs on a Ray cluster, whose nodes have this package installed."""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ailora.errors import UserError, full_disk
from ailora.files import write_atomic
from ailora.lab.experiments.engines.kept_open import KeptOpen
from ailora.lab.experiments.jobs import (
    Elsewhere,
    Ended,
    Event,
    Job,
    Step,
    Tasks,
    Tell,
    do_job,
    event_from_json,
    event_to_json,
)
from ailora.lab.experiments.store import Failure, Store, failure_of
from ailora.lab.training import RunConfig
from ailora.lab.training.folder import FAILED
from ailora.lock import LockedError, held
from ailora.termination import kept

try:
    import ray
except ImportError as error:
    raise UserError("Ray is not installed; install it with: pip install 'ailora[ray]'") from error

_LAST = (FAILED, "result.json")  # that a run has ended is written when all else is there
_TASKS = Tasks()  # data in a node's process, which does one run after another


class OnRay(KeptOpen):
    """An engine that hands each run to Ray.

    Nodes that see the store's folder work in it, and a run whose node is lost goes on from its
    last checkpoint. Others send the run's folder back when it has ended; a run lost there begins
    anew, and two sweeps at once could both do it.

    Args:
        address: Address of the cluster; None for one on this machine (or Ray's RAY_ADDRESS).
        cpus_per_run: Cores that each run gets, and its number of threads.
        gpus_per_run: Accelerators that each run gets.
        retries: How often a run is handed out again whose process or node was lost.

    Raises:
        UserError: A number out of its range.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus_per_run: float = 1,
        gpus_per_run: float = 0,
        retries: int = 3,
    ) -> None:
        if cpus_per_run <= 0 or gpus_per_run < 0:
            raise UserError(
                f"cpus_per_run={cpus_per_run:g}, gpus_per_run={gpus_per_run:g}: "
                "a run needs more than 0 cores, and 0 or more accelerators"
            )
        self.address = address
        self.resources = {"num_cpus": cpus_per_run, "num_gpus": gpus_per_run}
        self.retries = retries
        self._connected = False  # by this engine

    def run(self, jobs: Sequence[Job], store: Store, tell: Tell) -> None:
        """As `Engine.run`; single steps are not told.

        Raises:
            UserError: No cluster at the address, or it lacks what a run needs.
        """
        with self.open():
            if not ray.is_initialized():
                _connect(self.address)
                self._connected = True
            self._check_resources()
            with _probe(store) as seen:
                self._hand_out(jobs, store, seen, tell)

    def close(self) -> None:
        """Leave the cluster, if it was this engine that connected to it."""
        if self._connected:
            self._connected = False
            ray.shutdown()

    def _hand_out(self, jobs: Sequence[Job], store: Store, seen: str, tell: Tell) -> None:
        remote = ray.remote(do_on_node).options(**self.resources, max_retries=self.retries)
        threads = max(1, int(self.resources["num_cpus"]))
        pending = {
            remote.remote(asdict(job.config), job.run_id, str(store.path), seen, threads): job
            for job in jobs
        }
        while pending:
            (done,), _ = ray.wait(list(pending))
            job = pending.pop(done)
            try:
                tell(take(job, ray.get(done), store))
            except ray.exceptions.RayError as error:
                if full_disk(error) is not None:
                    raise UserError(str(getattr(error, "cause", error))) from error
                failure = _lost(job, error)
                store.fail(job.run_id, failure)
                tell(Ended(job, failure))

    def _check_resources(self) -> None:
        there = ray.cluster_resources()
        for name, key in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            if self.resources[name] > there.get(key, 0) and self.address is None:
                raise UserError(
                    f"each run asks for {self.resources[name]:g} {key}, but this machine has "
                    f"{there.get(key, 0):g}; ask for less or give a cluster with --address"
                )


def take(job: Job, words: Mapping[str, Any], store: Store) -> Event:
    """Put what a node has sent into the store, unless another process holds the folder."""
    event = event_from_json(job, words)
    if isinstance(event, Elsewhere):
        return event
    files, folder = words.get("files", {}), store.path / job.run_id
    try:
        with held(folder):
            for name in sorted(files, key=lambda name: (name in _LAST, name)):
                write_atomic(folder / name, files[name])
    except LockedError as error:
        return Elsewhere(job, str(error))
    return event


def do_on_node(
    config: Mapping[str, Any], run_id: str, store: str, seen: str, threads: int
) -> dict[str, Any]:
    """Do a run on a node.

    Args:
        config: The run's settings as a dictionary.
        run_id: Its name.
        store: Path of the store on the driver.
        seen: Name of a file there; a node that sees it shares the store.
        threads: Number of threads for torch.

    Returns:
        How it ended (``result``, ``failure`` or ``elsewhere``) and, if the store is not shared,
        the ``files`` of the run's folder.
    """
    torch.set_num_threads(threads)
    job = Job(config=RunConfig.from_json(config), run_id=run_id, rows=None)
    if (Path(store) / seen).exists():
        return _ended(job, Store(Path(store)))
    with tempfile.TemporaryDirectory(prefix="ailora-") as folder:
        own = Store(Path(folder))
        return _ended(job, own) | {"files": _files(own.path / run_id)}


@contextlib.contextmanager
def _probe(store: Store) -> Iterator[str]:
    """Name of a file that is in the store during the runs: a node that sees it shares the store."""
    name = f".ray-{uuid.uuid4().hex}"
    write_atomic(store.path / name, "")
    try:
        yield name
    finally:
        (store.path / name).unlink(missing_ok=True)


def _connect(address: str | None) -> None:
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        _knock(address)
        with kept():  # Ray's own handler would end this process with code 15
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"no Ray cluster at {address or 'this machine'}: {first}; check --address"
        ) from error


def _knock(address: str | None) -> None:
    """Raise an OSError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _lost(job: Job, error: Exception) -> Failure:
    """A node or process that was lost once too often, or something that Ray could not do."""
    failure = failure_of(job.config, error)
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return replace(failure, kind="memory")
    return failure


def _ended(job: Job, store: Store) -> dict[str, Any]:
    said: dict[str, Any] = {}

    def tell(event: Event) -> None:
        if not isinstance(event, Step):
            said.update(event_to_json(event))

    do_job(job, store, _TASKS, tell)
    return said


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
