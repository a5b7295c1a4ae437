"""A worker process: `Worker` starts it and gives it orders, `main` runs in it and obeys.

Both speak JSON, one object per line; the process ends when its input does.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from ailora.errors import UserError, full_disk
from ailora.lab.experiments.calibration import measure
from ailora.lab.experiments.engines.memory import kills, peak
from ailora.lab.experiments.jobs import Ended, Event, Job, Step, Tasks, do_job, event_to_json
from ailora.lab.experiments.store import Store, failure_of
from ailora.lab.training import RunConfig

COMMAND = (sys.executable, "-m", "ailora.lab.experiments.engines.worker")
Answer = Callable[[Mapping[str, Any]], None]
PAUSE = 0.2  # seconds between two messages on a run's progress


class Worker:
    """A worker process as its owner sees it.

    It has a session of its own, so that Ctrl-C reaches its owner alone.

    Args:
        inbox: Queue for its messages.
    """

    def __init__(self, inbox: queue.SimpleQueue[Message]) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._killed_before = kills()
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
        thread = threading.Thread(target=self._listen, args=(self._process.stdout, inbox))
        thread.daemon = True
        thread.start()

    def order(self, words: Mapping[str, Any]) -> None:
        """Give it an order. If it has died, a `Message` says so."""
        self._killed_before = kills()
        if self._process.stdin is not None:
            try:
                self._process.stdin.write(json.dumps(words) + "\n")
                self._process.stdin.flush()
            except OSError:
                return

    def ask_to_end(self) -> None:
        """Let it end after a checkpoint of the run that it is doing."""
        self._process.terminate()

    def end(self, patience: float) -> None:
        """Give it so many seconds, then kill it; the run that it is doing can be resumed."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()  # type: ignore[union-attr]
        self._errors.close()

    def why_dead(self) -> tuple[bool, str]:
        """Whether it ran out of memory, and one line on how it ended."""
        code = self._process.wait()
        if code != -signal.SIGKILL:
            return False, f"its process ended ({_code(code)}){self._last_words()}"
        if kills() > self._killed_before:
            return True, "out of memory: the kernel killed its process"
        return False, "its process was killed (SIGKILL)"

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def _listen(self, stream: IO[str], inbox: queue.SimpleQueue[Message]) -> None:
        for line in stream:
            inbox.put(Message(self, json.loads(line)))
        inbox.put(Message(self, None))
        stream.close()


class Message(NamedTuple):
    """What a worker said; None says that it ended."""

    worker: Worker
    words: dict[str, Any] | None


def main() -> None:
    """Obey one order after another."""
    settle()
    answer, orders, tasks = _answer(), _orders(), Tasks()
    while True:
        order = orders.get()
        torch.set_num_threads(order["threads"])
        with threadpool_limits(order["threads"]):
            if order["what"] == "measure":
                answer(_measured(RunConfig.from_json(order["config"])))
            else:
                _run(order, tasks, answer)


def settle() -> None:
    """Keep what was imported out of every garbage collection to come; each took 0.3 s of a run."""
    gc.collect()
    gc.freeze()


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _run(order: Mapping[str, Any], tasks: Tasks, answer: Answer) -> None:
    job = Job(config=RunConfig.from_json(order["config"]), run_id=order["run_id"], rows=None)
    told = 0.0

    def tell(event: Event) -> None:
        nonlocal told
        if isinstance(event, Step) and event.step < event.steps:
            if time.monotonic() - told < PAUSE:
                return
            told = time.monotonic()
        memory = {"memory": peak()} if isinstance(event, Ended) else {}
        answer(event_to_json(event) | memory)

    try:
        do_job(job, Store(Path(order["store"])), tasks, tell)
    except UserError as error:
        if full_disk(error) is None:
            raise
        answer({"full": str(error)})


def _measured(config: RunConfig) -> dict[str, Any]:
    try:
        return {"cost": asdict(measure(config))}
    except Exception as error:
        return {"failure": asdict(failure_of(config, error)), "memory": peak()}


def _answer() -> Answer:
    """A writer to the real standard output; what libraries print then goes to standard error."""
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
