"""A process that does runs as it is told: JSON lines in, JSON lines out, until the input ends."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ailora.lab.experiments.attempt import attempt
from ailora.lab.experiments.cost import measure
from ailora.lab.experiments.engines.memory import peak
from ailora.lab.experiments.events import Elsewhere, Event, Step
from ailora.lab.experiments.failure import Failure, failure_of
from ailora.lab.experiments.jobs import Job, Tasks
from ailora.lab.experiments.store import Store
from ailora.lab.training import RunConfig

Answer = Callable[[Mapping[str, Any]], None]
OFTEN = 0.2  # seconds between two words on a run's progress


def main() -> None:
    """Obey one order after another."""
    answer, orders, tasks = _answer(), _orders(), Tasks()
    while True:
        order = orders.get()
        torch.set_num_threads(order["threads"])
        with threadpool_limits(order["threads"]):
            if order["what"] == "measure":
                answer(_measured(RunConfig.from_json(order["config"])))
            else:
                _run(order, tasks, answer)


def _run(order: Mapping[str, Any], tasks: Tasks, answer: Answer) -> None:
    job = Job(config=RunConfig.from_json(order["config"]), run_id=order["run_id"], rows=None)
    told = 0.0

    def tell(event: Event) -> None:
        nonlocal told
        if isinstance(event, Step) and event.step < event.steps:
            if time.monotonic() - told < OFTEN:
                return
            told = time.monotonic()
        answer(_words(event))

    attempt(job, Store(Path(order["store"])), tasks, tell)


def _words(event: Event) -> dict[str, Any]:
    if isinstance(event, Step):
        return {"step": [event.step, event.steps, event.what]}
    if isinstance(event, Elsewhere):
        return {"elsewhere": event.owner}
    if isinstance(event.result, Failure):
        return {"failure": asdict(event.result), "memory": peak()}
    return {"result": event.result, "memory": peak()}


def _measured(config: RunConfig) -> dict[str, Any]:
    try:
        return {"cost": asdict(measure(config))}
    except Exception as error:
        return {"failure": asdict(failure_of(config, error)), "memory": peak()}


def _answer() -> Answer:
    """Writes to what was standard output; what libraries print goes to standard error instead."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(words: Mapping[str, Any]) -> None:
        stream.write(json.dumps(words) + "\n")
        stream.flush()

    return answer


def _orders() -> queue.SimpleQueue[Any]:
    """Orders as they come. When nobody can give any more, this process ends, whatever it does."""
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return orders


if __name__ == "__main__":
    main()
