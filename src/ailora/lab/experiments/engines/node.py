"""A run on another machine, which may or may not see the store's folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ailora.lab.experiments.attempt import attempt
from ailora.lab.experiments.events import Elsewhere, Ended, Event
from ailora.lab.experiments.failure import Failure
from ailora.lab.experiments.jobs import Job, Tasks
from ailora.lab.experiments.store import Store
from ailora.lab.training import RunConfig

_TASKS = Tasks()  # of this process, which does one run after another


def do(
    config: Mapping[str, Any], run_id: str, store: str, seen: str, threads: int
) -> dict[str, Any]:
    """Do a run on a node.

    Args:
        config: The run's settings as a dictionary.
        run_id: Its name.
        store: Path of the store on the driver.
        seen: Name of a file there: who sees it shares the store.
        threads: For torch.

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


def _ended(job: Job, store: Store) -> dict[str, Any]:
    said: dict[str, Any] = {}

    def tell(event: Event) -> None:
        if isinstance(event, Elsewhere):
            said["elsewhere"] = event.owner
        elif isinstance(event, Ended) and isinstance(event.result, Failure):
            said["failure"] = asdict(event.result)
        elif isinstance(event, Ended):
            said["result"] = event.result

    attempt(job, store, _TASKS, tell)
    return said


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
