"""Runs one after another in this process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from ailora.lab.experiments.jobs import Job, Tasks, Tell, do_job
from ailora.lab.experiments.store import Store


class Here:
    """An engine that does runs one after another in this process.

    Args:
        tasks: Data that is loaded already; by default it is read here.
        strict: Bad input raises a UserError and leaves nothing, rather than being a failed run.
    """

    def __init__(self, tasks: Tasks | None = None, *, strict: bool = False) -> None:
        self.tasks = tasks if tasks is not None else Tasks()
        self.strict = strict

    def open(self) -> AbstractContextManager[None]:
        """As `Engine.open`: nothing needs to be kept."""
        return nullcontext()

    def run(self, jobs: Sequence[Job], store: Store, tell: Tell) -> None:
        """As `Engine.run`."""
        for job in jobs:
            do_job(job, store, self.tasks, tell, strict=self.strict)
