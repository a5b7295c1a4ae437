"""Runs in worker processes on this machine."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ailora.errors import UserError
from ailora.lab.experiments.cost import Cost, mean
from ailora.lab.experiments.engines.layout import (
    Calibration,
    Layout,
    find_costs,
    find_layout,
    given_layout,
)
from ailora.lab.experiments.engines.memory import available
from ailora.lab.experiments.engines.pool import Message, Worker
from ailora.lab.experiments.events import Elsewhere, Ended, Step, Tell
from ailora.lab.experiments.failure import Failure
from ailora.lab.experiments.jobs import Job
from ailora.lab.experiments.store import Store


class Local:
    """An engine of worker processes that each do one run after another.

    Workers import once and keep the data of their runs. One that dies is replaced, and its run
    goes back once; if that kills a worker too, it has failed. While less memory is available than
    a run took at its most, no further worker is started.

    Args:
        workers: Processes at a time; by default what was measured to be fastest, also for
            ``threads``, of each.
        threads: By default the cores are shared out.

    Raises:
        UserError: A number below 1.
    """

    def __init__(self, workers: int | None = None, threads: int | None = None) -> None:
        for name, number in (("workers", workers), ("threads", threads)):
            if number is not None and number < 1:
                raise UserError(f"{name}={number}: must be at least 1")
        self._given = given_layout(workers, threads)
        self._layout: Layout | None = None
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._memory = 0  # most that a run has taken

    def layout(self, jobs: Sequence[Job], store: Store, *, remember: bool = True) -> Layout:
        """Number of workers and threads: the given ones, those remembered, or measured now."""
        if self._layout is None:
            self._layout = self._given or self._measured_layout(jobs, store, remember)
        return self._layout

    def costs(self, jobs: Sequence[Job], store: Store, *, remember: bool = True) -> dict[str, Cost]:
        """What each kind of run costs: remembered, or measured now."""
        layout = self.layout(jobs, store, remember=remember)
        known = Calibration.read(store.path)
        found = find_costs(jobs, known, layout, self._measure)
        if remember:
            known.write(store.path)
        return found

    def run(self, jobs: Sequence[Job], store: Store, tell: Tell) -> None:
        """As `Engine.run`."""
        layout = self.layout(jobs, store)
        waiting, busy, once = deque(jobs), dict[Worker, Job](), set[str]()
        try:
            while waiting or busy:
                self._hand_out(waiting, busy, layout, store, tell)
                worker, words = self._inbox.get()
                if words is None:
                    self._workers.remove(worker)
                    job = busy.pop(worker, None)
                    if job is not None:
                        self._bury(worker, job, waiting, once, store, tell)
                elif _tell(busy[worker], words, tell):
                    del busy[worker]
                    self._memory = max(self._memory, words.get("memory", 0))
        finally:
            self.close()

    def close(self) -> None:
        """End the workers."""
        while self._workers:
            self._workers.pop().end()
        self._inbox = queue.SimpleQueue()

    def _hand_out(
        self,
        waiting: deque[Job],
        busy: dict[Worker, Job],
        layout: Layout,
        store: Store,
        tell: Tell,
    ) -> None:
        idle = [worker for worker in self._workers if worker not in busy]
        while waiting:
            if not idle and len(self._workers) < layout.workers and self._has_room():
                idle.append(self._start())
            if not idle:
                return
            worker, job = idle.pop(), waiting.popleft()
            busy[worker] = job
            order = {"what": "run", "run_id": job.run_id, "store": str(store.path)}
            worker.order({**order, "config": asdict(job.config), "threads": layout.threads})
            tell(Step(job, 0, 1, "starting"))

    def _has_room(self) -> bool:
        return not self._workers or available() >= self._memory

    def _start(self) -> Worker:
        self._workers.append(Worker(self._inbox))
        return self._workers[-1]

    def _bury(
        self,
        worker: Worker,
        job: Job,
        waiting: deque[Job],
        once: set[str],
        store: Store,
        tell: Tell,
    ) -> None:
        for_memory, reason = worker.why_dead()
        if job.run_id not in once:
            once.add(job.run_id)
            waiting.append(job)
            return
        failure = Failure(
            config=asdict(job.config),
            kind="memory" if for_memory else "error",
            reason=f"{reason}, twice",
        )
        store.fail(job.run_id, failure)
        tell(Ended(job, failure))

    def _measured_layout(self, jobs: Sequence[Job], store: Store, remember: bool) -> Layout:
        known = Calibration.read(store.path)
        found = find_layout(jobs, known, self._measure)
        if remember:
            known.write(store.path)
        self._memory = max((cost.memory for cost in known.costs.values()), default=0)
        return found

    def _measure(self, jobs: Sequence[Job], threads: int) -> Cost | None:
        """The mean cost of jobs done at once; None if one of them fails."""
        while len(self._workers) < len(jobs):
            self._start()
        asked = dict(zip(self._workers, jobs, strict=False))
        for worker, job in asked.items():
            worker.order({"what": "measure", "config": asdict(job.config), "threads": threads})
        costs = []
        while asked:
            worker, words = self._inbox.get()
            asked.pop(worker, None)
            if words is None:
                self._workers.remove(worker)
            elif "cost" in words:
                costs.append(Cost(**words["cost"]))
        return mean(costs) if len(costs) == len(jobs) else None


def _tell(job: Job, words: dict[str, Any], tell: Tell) -> bool:
    """Pass on what a worker said; whether its run is over."""
    if "step" in words:
        tell(Step(job, *words["step"]))
        return False
    if "elsewhere" in words:
        tell(Elsewhere(job, words["elsewhere"]))
    elif "failure" in words:
        tell(Ended(job, Failure(**words["failure"])))
    else:
        tell(Ended(job, words["result"]))
    return True
