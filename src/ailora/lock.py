"""One process per folder, on one machine or on several that share a file system.

A lock file says who holds a folder, and shows by its time that the holder lives. It is made of
exclusive creation, hard links where there are any, and renaming, which file systems shared between
machines have too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ailora.errors import MALFORMED, UserError
from ailora.files import open_file, parse_json, unwritable, write_json
from ailora.termination import deferred

LOCK = "lock.json"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
BEAT = 5.0  # seconds between two signs of life
LIMIT = 60.0  # seconds without a sign of life after which an owner elsewhere counts as dead


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        host: Name of the machine, for people.
        machine: Host name, the machine's start and the process namespace, within which a pid means
            something.
        pid: Process id.
        started: When the process started, in seconds since 1970: pids are used again.
        token: Random text of this one hold; no other ever has it.
    """

    host: str
    machine: str
    pid: int
    started: float
    token: str

    def __str__(self) -> str:
        if self == _UNKNOWN:
            return (
                f"a process on {self.host} (its lock cannot be read; it counts for {LIMIT:.0f} s)"
            )
        return f"process {self.pid} on {self.host}"


class LockedError(UserError):
    """Another process works in the folder, or has taken it over."""


class Hold:
    """A folder that is held; `lost` once another process has taken it over."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self.folder = folder
        self.owner = owner
        self.lost = False

    def check(self) -> None:
        """Raise a LockedError if another process has taken the folder over."""
        if self.lost:
            raise LockedError(
                f"{self.folder}: taken over by another process, as this one gave no sign of life "
                f"for {LIMIT:.0f} s; start it again to see whether there is something left to do"
            )


_HELD: dict[tuple[Path, int], Hold] = {}  # holds by folder and thread, to let a holder in again


@contextlib.contextmanager
def held(folder: Path, *, called: Path | None = None) -> Iterator[Hold]:
    """Hold a folder, which is made if missing; a thread that holds it already is let in again.

    A folder that is empty afterwards is removed, with those above that had to be made for it.

    Args:
        folder: The folder.
        called: What messages call it, where that is not the folder itself.

    Raises:
        LockedError: A living process holds it.
        UserError: The folder cannot be made or written.
    """
    folder = folder.absolute()
    key = (folder, threading.get_ident())
    if key in _HELD:
        yield _HELD[key]
        return
    mine = _this_process()
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        other = _take(folder / LOCK, mine)
    except OSError as error:  # a name that is too long
        raise unwritable(called or folder, error) from error
    except UserError as error:
        if called is None or not isinstance(error.__cause__, OSError):
            raise
        raise unwritable(called, error.__cause__) from error.__cause__
    if other is not None:
        raise LockedError(
            f"{called or folder}: {other} is working there; wait for it to end, or stop it"
        )
    _HELD[key] = Hold(folder, mine)
    try:
        with _beating(_HELD[key]):
            yield _HELD[key]
    finally:
        with deferred():  # interrupted, it would leave its lock behind
            del _HELD[key]
            _release(folder / LOCK, mine)
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()


def holder(folder: Path) -> Owner | None:
    """The living process that holds a folder; None where nobody does."""
    found = _look(folder / LOCK)
    return found.owner if found is not None and _lives(found, folder) else None


def _take(path: Path, mine: Owner) -> Owner | None:
    """Write the lock; returns who has it instead, if that fails.

    A dead owner's lock may be replaced only by who holds the lock *on that lock*, named by the
    dead owner's token, and only if it still is what was judged dead. So of several processes that
    see the same dead owner one wins, and a late one cannot replace the winner's lock.
    """
    while not _create(path, mine):
        found = _look(path)
        if found is None:
            continue
        if _lives(found, path.parent):
            return found.owner
        with _alone(path, found.owner, mine) as other:
            if other is not None:
                return other
            if _look(path) == found:
                write_json(path, asdict(mine))
                return None
    return None


def _release(path: Path, mine: Owner) -> None:
    try:
        with _alone(path, mine, mine) as other:
            if other is None:
                _remove(path, mine)
    except UserError:  # a full disk: nobody else can write a claim either
        _remove(path, mine)


def _remove(path: Path, mine: Owner) -> None:
    found = _look(path)
    if found is None or found.owner != mine:
        return
    for claim in path.parent.glob(f"{path.name}.*"):  # left by a process that died taking it
        claim.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path, owner: Owner, mine: Owner) -> Iterator[Owner | None]:
    """Hold the right to replace or remove one owner's lock; yields who has it instead."""
    claim = path.with_name(f"{path.name}.{owner.token}")
    other = _take(claim, mine)
    try:
        yield other
    finally:
        if other is None:
            claim.unlink(missing_ok=True)


def _create(path: Path, mine: Owner) -> bool:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            _appear(path, mine)
        except FileExistsError:
            return False
        except FileNotFoundError:  # removed with the folder by a holder that left nothing in it
            continue
        except OSError as error:
            raise unwritable(path, error) from error
        return True


def _appear(path: Path, mine: Owner) -> None:
    """Make a lock that is whole as soon as it has its name: who is killed before leaves none.

    Where the file system has no hard links, it is written under its name.

    Raises:
        FileExistsError: There is one of that name.
        OSError: It cannot be written; there is none then.
    """
    aside = path.with_name(f"{path.name}.{mine.token}.tmp")
    try:
        _write_new(aside, mine)
        try:
            os.link(aside, path)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _write_new(path, mine)
    finally:
        aside.unlink(missing_ok=True)


def _write_new(path: Path, owner: Owner) -> None:
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(owner), stream)
    except OSError:  # a full disk takes the name of a file, but not what is in it
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _beating(hold: Hold) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(hold, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(hold: Hold, ended: threading.Event) -> None:
    path = hold.folder / LOCK
    while not ended.wait(BEAT):
        found = _look(path)
        if found is None or found.owner != hold.owner:
            hold.lost = True
            return
        with contextlib.suppress(OSError):
            os.utime(path)


# --- Who holds a lock file, and whether that process still lives --------------------------------


_UNKNOWN = Owner("an unknown machine", "", 0, 0.0, "unreadable")


@dataclass(frozen=True)
class _Found:
    """A lock file as it was seen; a sign of life changes ``touched``, a new file ``inode``."""

    owner: Owner
    inode: int
    touched: int  # nanoseconds since 1970


def _this_process() -> Owner:
    """This process, with a token of its own."""
    started = psutil.Process().create_time()
    return Owner(socket.gethostname(), _machine(), os.getpid(), started, uuid.uuid4().hex)


def _look(path: Path) -> _Found | None:
    """The lock file as it is now; None where there is none."""
    try:
        with open_file(path) as stream:
            owner, about = _owner(stream.read()), os.fstat(stream.fileno())
    except FileNotFoundError:
        return None
    except OSError:  # another user's, or something else of that name
        try:
            owner, about = _UNKNOWN, path.lstat()
        except OSError:
            return None
    return _Found(owner, about.st_ino, about.st_mtime_ns)


def _lives(found: _Found, folder: Path) -> bool:
    """Whether the owner lives: a process of this machine is looked up, another must have shown it.

    Args:
        found: The lock file.
        folder: The folder that it is in.
    """
    owner = found.owner
    if owner.machine != _machine():
        return _gave_a_sign(found, folder)
    try:
        process = psutil.Process(owner.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        same = abs(process.create_time() - owner.started) < 5
    except psutil.NoSuchProcess:
        return False
    # Where the clock was set, a living process seems to have started at another time.
    return same or _gave_a_sign(found, folder)


def _gave_a_sign(found: _Found, folder: Path) -> bool:
    """Whether the last sign of life is recent; one that is dated ahead was given by another clock.

    Who lives gives the next one within seconds, by today's.
    """
    return abs(_age(found, folder)) < LIMIT


def _owner(text: bytes) -> Owner:
    try:
        return Owner(**parse_json(text))
    except MALFORMED:
        return _UNKNOWN


def _age(found: _Found, folder: Path) -> float:
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
