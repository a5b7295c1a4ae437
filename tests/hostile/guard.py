"""What no file may bring about: code that runs, files written elsewhere, time and memory."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

SECONDS, MEGABYTES = 2.0, 500.0
_PATIENCE = 20  # seconds by the clock, of a machine that may be busy
_NEVER = (
    "pickle.find_class",
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "shutil.rmtree",
)

_inside: list[Path] = []
_seen: list[str] = []


class BrokenPromiseError(Exception):
    """Something happened that no input may bring about."""


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _inside:
        return
    if event in _NEVER:
        _seen.append(f"{event}{args[:1]}")
    elif event in _CHANGES:
        _look(event, args[0])
    elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
        flags = args[2] if isinstance(args[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _look(event, args[0])


def _look(event: str, path: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        name = os.fsdecode(path)
        if event in _CHANGES:  # these change a link, not where it leads
            whole = str(Path(name).parent.resolve() / Path(name).name)
        else:
            whole = os.path.realpath(name)
        if not whole.startswith((f"{_inside[0]}{os.sep}", "/dev/")) and whole != str(_inside[0]):
            _seen.append(f"{event} of {whole}")


def _pickles(original: Any) -> Any:
    def refused(*args: Any, **kwargs: Any) -> Any:
        if _inside:
            _seen.append("pickle.load")
            raise BrokenPromiseError("a pickle was opened")
        return original(*args, **kwargs)

    return refused


def _torch_load(original: Any) -> Any:
    def looked(*args: Any, **kwargs: Any) -> Any:
        if _inside and kwargs.get("weights_only") is not True:
            _seen.append("torch.load without weights_only")
            raise BrokenPromiseError("torch.load without weights_only=True")
        return original(*args, **kwargs)

    return looked


def install() -> None:
    """Watch this process from now on; an audit hook cannot be taken out."""
    if getattr(sys, "_ailora_watched", False):
        return
    sys._ailora_watched = True  # type: ignore[attr-defined]
    sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path, payload: Path) -> Iterator[None]:
    """Raise a BrokenPromiseError after the block if something happened that must not."""
    install()
    loads, load, torch_load = pickle.loads, pickle.load, torch.load
    pickle.loads, pickle.load, torch.load = _pickles(loads), _pickles(load), _torch_load(torch_load)
    before, temporary = _forget_peak(), tempfile.tempdir
    tempfile.tempdir = str(folder)  # what is unpacked for a moment lies here
    _inside.append(folder.resolve())
    _seen.clear()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_PATIENCE)
    began = time.process_time()
    try:
        yield
    finally:
        spent = time.process_time() - began
        signal.alarm(0)
        _inside.clear()
        tempfile.tempdir = temporary
        pickle.loads, pickle.load, torch.load = loads, load, torch_load
    grown = peak() - before
    if payload.exists():
        payload.unlink()
        raise BrokenPromiseError("code of the file ran")
    if _seen:
        raise BrokenPromiseError(_seen[0])
    if spent > SECONDS:
        raise BrokenPromiseError(f"took {spent:.1f} s")
    if grown > MEGABYTES:
        raise BrokenPromiseError(f"took {grown:.0f} MB")


def _too_long(*_: Any) -> None:
    raise BrokenPromiseError(f"took more than {_PATIENCE} s")


def _forget_peak() -> float:
    """The memory in use in MB, from which the next peak is measured (Linux forgets the last)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """The most memory that this process has had since then, in MB."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
