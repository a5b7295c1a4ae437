"""Runs with their names: a run's folder is named by its data, which must be read for that."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ailora.lab.experiments.failure import Failure, failure_of
from ailora.lab.tasks import Task, load_task
from ailora.lab.training import RunConfig

_KEPT = 4  # tasks in memory: neighbouring runs mostly share one


class Rows(NamedTuple):
    """How many there are."""

    train: int
    selection: int
    test: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that is to be done.

    Attributes:
        config: Its settings.
        run_id: Name of its folder.
        rows: Of its data; None where it cannot be read.
        unreadable: Why it cannot.
    """

    config: RunConfig
    run_id: str
    rows: Rows | None
    unreadable: Failure | None = None


class _Known(NamedTuple):
    name: str
    fingerprint: str
    rows: Rows


class Tasks:
    """The data of runs, read once for all that share it."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, Task] = OrderedDict()
        self._known: dict[str, _Known | Exception] = {}

    def of(self, config: RunConfig) -> Task:
        """The run's task.

        Raises:
            UserError: As `ailora.lab.tasks.load_task`.
        """
        key = _key(config)
        if key not in self._loaded:
            self._loaded[key] = load_task(config.task, **config.task_options())
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def job(self, config: RunConfig) -> Job:
        """The run with its name; data that cannot be read is not asked for twice."""
        key = _key(config)
        if key not in self._known:
            self._known[key] = self._ask(config)
        known = self._known[key]
        if isinstance(known, Exception):
            failure = failure_of(config, known)
            return Job(config=config, run_id=unread_id(config), rows=None, unreadable=failure)
        run_id = config.run_id(known.name, known.fingerprint)
        return Job(config=config, run_id=run_id, rows=known.rows)

    def _ask(self, config: RunConfig) -> _Known | Exception:
        try:
            task = self.of(config)
        except Exception as error:  # a Python file of the user may raise anything
            return error
        splits = (task.train, task.selection, task.test)
        return _Known(task.name, task.fingerprint, Rows(*(split.num_rows for split in splits)))


def jobs_of(runs: Iterable[RunConfig], tasks: Tasks) -> list[Job]:
    """Each run with its name, in order; those of one name once."""
    jobs = (tasks.job(config) for config in runs)
    return list({job.run_id: job for job in jobs}.values())


def unread_id(config: RunConfig) -> str:
    """Name of a run whose data cannot be read."""
    name = re.sub(r"[^\w.-]+", "-", Path(config.task).stem).strip("-")[:40]
    return config.run_id(name or "task", "unread")


def _key(config: RunConfig) -> str:
    return json.dumps([config.task, config.task_options()], sort_keys=True)
