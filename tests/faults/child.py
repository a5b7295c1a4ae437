"""One forked child that runs an operation, with a fault armed at one of its events.

Events are what the child does to files below its folder (opening one for writing, making, renaming,
removing, synchronising) and steps of training. They are counted in memory that parent and child
share, so that a kill does not lose the count. Who writes in C++ or Rust is torn by a limit on the
size of files: the kernel stops the write at that very byte.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 120.0
OFFLINE = "TESTS_FAULTS_OFFLINE"  # set where an operation is to find no network
_WRITES = os.O_WRONLY | os.O_RDWR
_FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
_NEED_NO_ROOM = {"os.remove", "os.rmdir", "step"}
# What systems answer to who opens, renames or removes a file.
_REFUSALS = (errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE)
_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong: at an event (`EVENTS` of the operations), or all the time."""

    kind: str
    at: int = 0


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The child's exit code, or its signal as a negative number; what it said; its events."""

    code: int
    said: str
    events: int


NOTHING = Fault(kind="none")


class Child:
    """A child that has been started and is waited for by `end`."""

    def __init__(self, call: Callable[[], None], folder: Path, fault: Fault = NOTHING) -> None:
        self._count = mmap.mmap(-1, 8)
        self._reads, writes = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(call, folder, fault, self._count, writes)
        os.close(writes)

    def end(self) -> Ending:
        """Wait for it; one that hangs is killed, which is code -9 after a line that says so."""
        said, code, until = b"", None, time.monotonic() + TIMEOUT
        while code is None:
            while select.select([self._reads], [], [], 0.01)[0]:
                block = os.read(self._reads, 1 << 16)
                said += block
                if not block:
                    break
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                said += b"\nit hung and was killed\n"
        while select.select([self._reads], [], [], 0)[0] and (
            block := os.read(self._reads, 1 << 16)
        ):
            said += block
        os.close(self._reads)
        events = struct.unpack("q", self._count[:8])[0]
        return Ending(code=code, said=said.decode("utf-8", "replace"), events=events)


def _be_child(
    call: Callable[[], None], folder: Path, fault: Fault, count: mmap.mmap, writes: int
) -> None:
    code = 1
    try:
        os.setsid()
        os.dup2(writes, 1)
        os.dup2(writes, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        _arm(folder, fault, count)
        call()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _arm(folder: Path, fault: Fault, count: mmap.mmap) -> None:
    """Count the events from here on, and strike at the one that is asked for."""
    strike = _strikes(fault)
    root = str(folder)

    def happen(event: str = "", path: str = "") -> None:
        number = struct.unpack("q", count[:8])[0] + 1
        count[:8] = struct.pack("q", number)
        if number == fault.at or (fault.kind == "nospace" and number >= fault.at):
            strike(event, path)

    def hook(event: str, about: tuple[Any, ...]) -> None:
        if event in _FILE_EVENTS and _writes_below(root, event, about):
            happen(event, os.fsdecode(about[0]))

    from transformers import Trainer

    steps, synced = Trainer.training_step, os.fsync

    def step(*args: Any, **options: Any) -> Any:
        happen("step")
        return steps(*args, **options)

    def sync(handle: int) -> None:
        happen()
        synced(handle)

    Trainer.training_step = step  # type: ignore[method-assign]
    os.fsync = sync
    sys.addaudithook(hook)
    _limit(fault)


def _writes_below(root: str, event: str, about: tuple[Any, ...]) -> bool:
    if not isinstance(about[0], str | bytes | Path) or (event == "open" and not about[2] & _WRITES):
        return False
    return os.fsdecode(about[0]).startswith(root)


def _strikes(fault: Fault) -> Callable[[str, str], None]:
    """What happens at the event."""

    def full(event: str, path: str) -> None:
        if event in _NEED_NO_ROOM:
            return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refused(event: str, path: str) -> None:
        if event == "step":
            return
        number = _REFUSALS[fault.at % len(_REFUSALS)]
        raise OSError(number, os.strerror(number), *filter(None, [path]))

    def jump(event: str, path: str) -> None:
        for name, one in (("time", 1), ("time_ns", 10**9)):
            clock = getattr(time, name)
            ahead = (_DAY if fault.at % 2 else -_DAY) * one
            setattr(time, name, lambda clock=clock, ahead=ahead: clock() + type(clock())(ahead))

    signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
    signals["hup"] = signal.SIGHUP
    if fault.kind in signals:
        return lambda event, path: os.kill(os.getpid(), signals[fault.kind])
    found = {"nospace": full, "refused": refused, "clock": jump}
    return found.get(fault.kind, lambda event, path: None)


def _limit(fault: Fault) -> None:
    if fault.kind == "network":
        os.environ[OFFLINE] = "1"
    elif fault.kind == "torn":  # Python ignores the signal, which kills by default
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, fault.at))
    elif fault.kind == "memory":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + fault.at
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
