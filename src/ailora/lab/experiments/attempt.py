"""One run to its result or to the reason that it has none."""

from __future__ import annotations

import gc

from ailora.errors import UserError
from ailora.lab.experiments.events import Elsewhere, Ended, Step, Tell
from ailora.lab.experiments.failure import Failure, failure_of
from ailora.lab.experiments.jobs import Job, Tasks
from ailora.lab.experiments.store import Run, Store
from ailora.lab.lock import LockedError, held
from ailora.lab.training import train
from ailora.lab.training.measure import DivergedError


def attempt(job: Job, store: Store, tasks: Tasks, tell: Tell, *, strict: bool = False) -> None:
    """Do a run in this process, from its last checkpoint if it was interrupted.

    Args:
        job: The run.
        store: Where its folder is; a failure is written down there.
        tasks: The data.
        tell: Called with every step, and with how it ended; a run that another process does
            is only told.
        strict: Raise on bad input instead, and leave nothing.

    Raises:
        UserError: With ``strict``.
    """
    try:
        with held(store.path / job.run_id):
            tell(Ended(job, _held_attempt(job, store, tasks, tell, strict)))
    except LockedError as error:
        tell(Elsewhere(job, str(error)))
    finally:
        gc.collect()  # a trainer and its model refer to each other


def _held_attempt(job: Job, store: Store, tasks: Tasks, tell: Tell, strict: bool) -> Run | Failure:
    # Another process may have failed at it just before this one held the folder.
    failed = store.failure(job.run_id)
    if failed is not None and store.folder(job.run_id).result() is None:
        return failed
    try:
        task = tasks.of(job.config)
        return train(
            job.config,
            task,
            store.path,
            resume=True,
            on_progress=lambda step, steps, what: tell(Step(job, step, steps, what)),
        )
    except LockedError:
        raise
    except Exception as error:
        if strict and isinstance(error, UserError) and not isinstance(error, DivergedError):
            raise
        failure = failure_of(job.config, error)
        store.fail(job.run_id, failure)
        return failure
