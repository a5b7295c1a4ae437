"""Runs to do: how each is named by its data and done, and the events it sends meanwhile."""

from __future__ import annotations

import gc
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ailora.errors import UserError, full_disk
from ailora.lab import tasks as data
from ailora.lab import training
from ailora.lab.experiments.store import Failure, Run, Store, failure_of
from ailora.lab.methods.variants import checked
from ailora.lab.settings import RunConfig
from ailora.lab.tasks.statement import LINES
from ailora.lab.training.results import DivergedError
from ailora.lock import LockedError, held

if TYPE_CHECKING:
    from ailora.lab.tasks import Task
    from ailora.lab.training.shared import Shared

_TASKS_IN_MEMORY = 4  # neighbouring runs mostly share one


class Rows(NamedTuple):
    """Number of rows in each split."""

    train: int
    selection: int
    test: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that is to be done.

    Attributes:
        config: The run's settings.
        run_id: Name of its folder.
        rows: Size of its data; None where the data cannot be read.
        unreadable: Why the data cannot be read.
    """

    config: RunConfig
    run_id: str
    rows: Rows | None
    unreadable: Failure | None = None


class _Known(NamedTuple):
    name: str
    fingerprint: str
    rows: Rows
    said: tuple[str, ...]


class Tasks:
    """The data of runs, read once for all runs that share it."""

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
            self._loaded[key] = data.load_task(config.task, **config.task_options())
            while len(self._loaded) > _TASKS_IN_MEMORY:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    @cached_property
    def shared(self) -> Shared:
        """What else the runs of a process share: outputs of the base model they start from."""
        from ailora.lab.training.shared import Shared  # noqa: PLC0415 (torch: not for a list)

        return Shared()

    def job(self, config: RunConfig) -> Job:
        """The run with its name. Data that could not be read is not tried again.

        Raises:
            UserError: The method is not known, or has no such setting.
        """
        config = checked(config)
        key = _key(config)
        if key not in self._known:
            self._known[key] = self._ask(config)
        known = self._known[key]
        if isinstance(known, Exception):
            failure = failure_of(config, known)
            return Job(config=config, run_id=unread_id(config), rows=None, unreadable=failure)
        run_id = config.run_id(known.name, known.fingerprint)
        return Job(config=config, run_id=run_id, rows=known.rows)

    def said(self) -> tuple[str, ...]:
        """What is to be known of all data that was read: its statements, each once."""
        known = (one for one in self._known.values() if isinstance(one, _Known))
        return tuple(line for lines in dict.fromkeys(one.said for one in known) for line in lines)

    def _ask(self, config: RunConfig) -> _Known | Exception:
        try:
            task = self.of(config)
        except Exception as error:  # a Python file of the user may raise anything
            return error
        splits = (task.train, task.selection, task.test)
        rows = Rows(*(split.num_rows for split in splits))
        return _Known(task.name, task.fingerprint, rows, task.said(most=LINES))


def jobs_of(runs: Iterable[RunConfig], tasks: Tasks, store: Store) -> list[Job]:
    """Each run with its name, in order; equal runs once.

    A run that is finished in the store under a name that another version gave it keeps that name.
    """
    jobs = {job.run_id: job for job in (tasks.job(config) for config in runs)}
    there = store.names()
    missing = jobs.keys() - there
    others = store.finished(set(there) - jobs.keys()) if missing else {}
    return [
        replace(job, run_id=others.get(run_id.rpartition("-")[2], run_id))
        if run_id in missing
        else job
        for run_id, job in jobs.items()
    ]


def unread_id(config: RunConfig) -> str:
    """Name of a run whose data cannot be read."""
    name = re.sub(r"[^\w.-]+", "-", Path(config.task).stem).strip("-")[:40]
    return config.run_id(name or "task", "unread")


@dataclass(frozen=True)
class Step:
    """A run made one step of training, evaluating, ..."""

    job: Job
    step: int
    steps: int
    what: str


@dataclass(frozen=True)
class Ended:
    """A run ended, well or not; ``before`` says that it had when this sweep began."""

    job: Job
    result: Run | Failure
    before: bool = False


@dataclass(frozen=True)
class Elsewhere:
    """Another process is doing this run; the sweep comes back to it."""

    job: Job
    owner: str


Event = Step | Ended | Elsewhere
Tell = Callable[[Event], None]


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as one process sends it to another, without its job."""
    if isinstance(event, Step):
        return {"step": [event.step, event.steps, event.what]}
    if isinstance(event, Elsewhere):
        return {"elsewhere": event.owner}
    if isinstance(event.result, Failure):
        return {"failure": asdict(event.result)}
    return {"result": event.result}


def event_from_json(job: Job, words: Mapping[str, Any]) -> Event:
    """The event of a job that another process sent."""
    if "step" in words:
        return Step(job, *words["step"])
    if "elsewhere" in words:
        return Elsewhere(job, words["elsewhere"])
    return Ended(job, Failure(**words["failure"]) if "failure" in words else words["result"])


def do_job(job: Job, store: Store, tasks: Tasks, tell: Tell, *, strict: bool = False) -> None:
    """Do a run in this process, from its last checkpoint if it was interrupted.

    Args:
        job: The run.
        store: Where its folder is; a failure is written down there.
        tasks: The data.
        tell: Called with every step and with the end, or with `Elsewhere` alone.
        strict: Raise on bad input instead of writing down a failure.

    Raises:
        UserError: The disk is full; with ``strict``, also bad input.
    """
    try:
        with held(store.path / job.run_id):
            tell(Ended(job, _result(job, store, tasks, tell, strict)))
    except LockedError as error:
        tell(Elsewhere(job, str(error)))
    finally:
        gc.collect()  # a trainer and its model refer to each other


def _result(job: Job, store: Store, tasks: Tasks, tell: Tell, strict: bool) -> Run | Failure:
    # Another process may have failed at it just before this one held the folder.
    failed = store.failure(job.run_id)
    if failed is not None and store.folder(job.run_id).result() is None:
        return failed
    try:
        task = tasks.of(job.config)
        return training.train(
            job.config,
            task,
            store.path,
            resume=True,
            on_progress=lambda step, steps, what: tell(Step(job, step, steps, what)),
            shared=tasks.shared,
        )
    except LockedError:
        raise
    except Exception as error:
        if strict and isinstance(error, UserError) and not isinstance(error, DivergedError):
            raise
        if full_disk(error) is not None:  # no failure of this run: the next ones would fail too
            raise UserError(
                f"cannot write to {store.path / job.run_id}: No space left on device; free some "
                "space and run it again: what is not finished is done then"
            ) from error
        failure = failure_of(job.config, error)
        store.fail(job.run_id, failure)
        return failure


def _key(config: RunConfig) -> str:
    return json.dumps([config.task, config.task_options()], sort_keys=True)
