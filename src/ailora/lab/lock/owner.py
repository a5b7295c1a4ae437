"""Who holds a lock file, and whether that process still lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

LIMIT = 60.0  # seconds without a sign of life after which an owner elsewhere counts as dead


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        host: Name of its machine, for people.
        machine: That, the machine's start and the process namespace: where the pid means something.
        pid: Of the process.
        started: When the process started, in seconds since 1970: pids are used again.
        token: Of this one hold; no other ever has it.
    """

    host: str
    machine: str
    pid: int
    started: float
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


UNKNOWN = Owner("an unknown machine", "", 0, 0.0, "unreadable")


@dataclass(frozen=True)
class Found:
    """A lock file as it was seen; a sign of life changes ``touched``, a new file ``inode``."""

    owner: Owner
    inode: int
    touched: int  # nanoseconds since 1970


def this_process() -> Owner:
    """This process, with a token of its own."""
    started = psutil.Process().create_time()
    return Owner(socket.gethostname(), _machine(), os.getpid(), started, uuid.uuid4().hex)


def look(path: Path) -> Found | None:
    """The lock file as it is now; None where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            text, seen = stream.read(), os.fstat(stream.fileno())
    except OSError:
        return None
    return Found(_owner(text), seen.st_ino, seen.st_mtime_ns)


def lives(found: Found, folder: Path) -> bool:
    """Whether the owner works: a process of this machine is looked at, another must have said so.

    Args:
        found: The lock file.
        folder: That it is in.
    """
    owner = found.owner
    if owner.machine != _machine():
        return _age(found, folder) < LIMIT
    try:
        process = psutil.Process(owner.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        same = abs(process.create_time() - owner.started) < 5
    except psutil.NoSuchProcess:
        return False
    # Where the clock was set, a living process seems to have started at another time.
    return same or _age(found, folder) < LIMIT


def _owner(text: str) -> Owner:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return UNKNOWN


def _age(found: Found, folder: Path) -> float:
    """Seconds since the last sign of life, by the clock of the file system where it is writable."""
    now = time.time()
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as probe:
        now = os.fstat(probe.fileno()).st_mtime
    return now - found.touched / 1e9


def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # a container may have its host's name but not its pids
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
