"""Worker processes and what they say."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from ailora.lab.experiments.engines.memory import kills

COMMAND = (sys.executable, "-m", "ailora.lab.experiments.engines.worker")


class Worker:
    """One process, in a session of its own: Ctrl-C is for who started it."""

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

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def order(self, words: Mapping[str, Any]) -> None:
        """Say what to do next; one that has died says so by itself."""
        self._killed_before = kills()
        if self._process.stdin is not None:
            try:
                self._process.stdin.write(json.dumps(words) + "\n")
                self._process.stdin.flush()
            except OSError:
                return

    def end(self) -> None:
        """Stop at once; a run that it does can be resumed."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()  # type: ignore[union-attr]
        self._errors.close()

    def why_dead(self) -> tuple[bool, str]:
        """Whether it was for want of memory, and a line on how it ended."""
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
    """What a worker said; None is its end."""

    worker: Worker
    words: dict[str, Any] | None


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
