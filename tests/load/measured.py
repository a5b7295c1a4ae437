"""What a process holds, and programs run in a process of their own that say so line by line."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def resident() -> int:
    """Bytes of this process's own memory that are in RAM now, without mapped files."""
    return _status("RssAnon")


@contextmanager
def most_resident() -> Iterator[list[int]]:
    """The most of `resident` meanwhile, looked at a hundred times a second."""
    most, ended = [resident()], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], resident())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def held() -> dict[str, int]:
    """Memory, open files and Python's objects of this process, after a collection."""
    gc.collect()
    handles = len(list(Path("/proc/self/fd").iterdir()))
    return {"memory": resident(), "handles": handles, "objects": len(gc.get_objects())}


def said_by(*command: object) -> list[dict[str, Any]]:
    """What ``python COMMAND`` prints, one JSON object per line.

    Blocks of a megabyte go back to the system when they are freed, so that what is resident is
    what is held; else glibc keeps some 100 MB of those that it has seen.
    """
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _status(field: str) -> int:
    with Path("/proc/self/status").open() as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(field))
