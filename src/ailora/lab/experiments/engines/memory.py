"""Memory that is available and that was used, and processes killed for lack of it."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available(cgroup: Path = _CGROUP) -> int:
    """Bytes that can be used without swapping; in a container at most what its limit leaves."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no limit says "max"
        limit = int((cgroup / "memory.max").read_text(encoding="utf-8"))
        used = int((cgroup / "memory.current").read_text(encoding="utf-8"))
        return min(free, max(0, limit - used))
    return free


def peak() -> int:
    """Peak memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def kills(vmstat: Path = Path("/proc/vmstat"), cgroup: Path = _CGROUP) -> int:
    """Number of processes that the kernel has killed for lack of memory, as far as it says."""
    return _count(vmstat) + _count(cgroup / "memory.events")


def _count(path: Path) -> int:
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0
