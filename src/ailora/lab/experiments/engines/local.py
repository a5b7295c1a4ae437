"""Runs in worker processes on this machine."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

from ailora.errors import UserError
from ailora.lab.experiments.calibration import (
    Calibration,
    Cost,
    Layout,
    find_costs,
    find_layout,
    given_layout,
    mean,
)
from ailora.lab.experiments.engines.kept_open import KeptOpen
from ailora.lab.experiments.engines.memory import available
from ailora.lab.experiments.engines.worker import Message, Worker
from ailora.lab.experiments.jobs import Ended, Job, Step, Tell, event_from_json
from ailora.lab.experiments.store import Failure, Store

PATIENCE = 8.0  # seconds to stop in; schedulers give 10 to 30 before they kill


class Local(KeptOpen):
    """An engine of worker processes that each do one run after another.

    While it is open they stay, with what they have imported and loaded.

    A worker that dies is replaced, and its run is tried once more; if that kills a worker too, the
    run has failed. No further worker is started while less memory is available than a run's peak.

    Args:
        workers: Number of processes. Without it and ``threads``, what was measured to be fastest.
        threads: Number of threads in each. With ``workers`` alone the cores are shared out.

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
        self._memory = 0  # largest peak of a run so far, in bytes

    def layout(self, jobs: Sequence[Job], store: Store, *, remember: bool = True) -> Layout:
        """Number of workers and threads: given, remembered, or measured now."""
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
        with self.open():
            layout = self.layout(jobs, store)
            try:
                self._run(deque(jobs), layout, store, tell)
            except BaseException:
                self.close()  # else the next call would hear of these runs
                raise

    def _run(self, waiting: deque[Job], layout: Layout, store: Store, tell: Tell) -> None:
        busy, lost = dict[Worker, Job](), set[str]()
        while waiting or busy:
            self._hand_out(waiting, busy, layout, store, tell)
            worker, words = self._inbox.get()
            if words is None:
                self._workers.remove(worker)
                job = busy.pop(worker, None)
                if job is not None:
                    self._retry_or_fail(worker, job, waiting, lost, store, tell)
                continue
            if "full" in words:
                raise UserError(words["full"])
            event = event_from_json(busy[worker], words)
            tell(event)
            if not isinstance(event, Step):
                del busy[worker]
                self._memory = max(self._memory, words.get("memory", 0))

    def close(self) -> None:
        """End the workers, each after a checkpoint if a step takes no longer than `PATIENCE`."""
        for worker in self._workers:
            worker.ask_to_end()
        until = time.monotonic() + PATIENCE
        while self._workers:
            self._workers.pop().end(max(0.0, until - time.monotonic()))
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
        while waiting and len(busy) < layout.workers:
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

    def _retry_or_fail(
        self,
        worker: Worker,
        job: Job,
        waiting: deque[Job],
        lost: set[str],
        store: Store,
        tell: Tell,
    ) -> None:
        """Put the run of a dead worker back into the queue; the second time it has failed."""
        for_memory, reason = worker.why_dead()
        if job.run_id not in lost:
            lost.add(job.run_id)
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
