"""What a process holds, and programs run in a process of their own that say so line by line."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def resident() -> int:
    """Bytes of this process's own memory that are in RAM now, without mapped files."""
    return _status("RssAnon")


def peak() -> int:
    """The most bytes in RAM so far, mapped files and all."""
    return _status("VmHWM")


def held() -> dict[str, int]:
    """Memory, open files and Python's objects of this process, after a collection."""
    gc.collect()
    handles = len(list(Path("/proc/self/fd").iterdir()))
    return {"memory": resident(), "handles": handles, "objects": len(gc.get_objects())}


def said_by(*command: object) -> list[dict[str, Any]]:
    """What ``python COMMAND`` prints, one JSON object per line."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _status(field: str) -> int:
    with Path("/proc/self/status").open() as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(field))
