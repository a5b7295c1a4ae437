"""The cache on disk: entries by name, size and last use, and what is deleted when it is full.

No torch here: `ailora cache` does without. An entry is a file ``<key>-<rank>.safetensors`` that is
never changed once it is there; its modification time is when it was last used. Entries need no
lock: files appear by a rename, and a file that another process has just deleted is as good as never
found.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock

from ailora.errors import UserError
from ailora.files import cache_path, write_atomic

logger = logging.getLogger(__name__)

_ENTRY = re.compile(r"([0-9a-f]{64})-([1-9][0-9]*)\.safetensors", re.ASCII)
_LEFT_OVER = re.compile(r"\.[0-9a-f]{64}-[1-9][0-9]*\.safetensors\..*\.tmp", re.ASCII)
_LEFT_OVER_AFTER = 3600.0  # seconds; by then a writer is dead, not slow

# Listing 8000 entries takes 0.1 s, three times what a small weight's decomposition does: a process
# that has found room uses it up, to a sixteenth of the limit, before it lists again.
_SHARES = 16
_known_free: dict[tuple[Path, int], int] = {}

LIMIT_VARIABLE = "AILORA_CACHE_LIMIT"
DEFAULT_LIMIT = 4 * 10**9  # some 8000 entries of a 4096 x 4096 weight at rank 8
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)

_LONGEST_WAIT = 300.0  # seconds; longer than any decomposition measured, shorter than for ever


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A stored decomposition.

    Attributes:
        path: Its file.
        key: What it is filed under, see `ailora.cache.decompositions.key_of`.
        rank: How many triplets it holds.
        size: Bytes.
        used: When it was last used, seconds since the epoch.
    """

    path: Path
    key: str
    rank: int
    size: int
    used: float


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the cache holds.

    Attributes:
        folder: Where it is.
        entries: Decompositions in it.
        size: Their bytes.
        limit: Bytes it may hold; 0: the cache is off.
        last_used: When an entry was last used, local time; None if there is none.
    """

    folder: Path
    entries: int
    size: int
    limit: int
    last_used: datetime | None


def folder_path() -> Path:
    """The folder of entries, whether it is there or not.

    Raises:
        UserError: There is no home folder and AILORA_CACHE is not set.
    """
    return cache_path() / "decompositions"


def status() -> Status:
    """Say what the cache holds; nothing is made or changed.

    Raises:
        UserError: AILORA_CACHE_LIMIT is not a size, or the folder cannot be read.
    """
    folder, limit = folder_path(), size_limit()
    with _named_in_errors("read", folder):
        entries = list(entries_in(folder))
    last = max((entry.used for entry in entries), default=None)
    return Status(
        folder=folder,
        entries=len(entries),
        size=sum(entry.size for entry in entries),
        limit=limit,
        last_used=None if last is None else datetime.fromtimestamp(last).astimezone(),
    )


def clear() -> int:
    """Delete every entry and return how many there were; other files are left alone.

    Safe while other processes use the cache: they compute again what they miss.

    Raises:
        UserError: An entry cannot be deleted.
    """
    folder = folder_path()
    with _named_in_errors("clear", folder):
        entries = list(entries_in(folder))
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        _sweep(folder, older_than=0.0)
    return len(entries)


def entries_in(folder: Path, key: str = "") -> Iterator[Entry]:
    """The entries of a folder, or those of one key, in no order; none if it is not there."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            if file.name.startswith(key) and (entry := _entry(file.path)):
                yield entry


def candidates(folder: Path, key: str, rank: int) -> list[Entry]:
    """Entries of `key` with `rank` triplets or more, smallest first; none if unreadable.

    A larger one is only ever made when none of these existed, so the first in the list stays the
    first until it is deleted: the same request keeps getting the same bits. Thousands of files take
    milliseconds to list, so that is left out where the first is certain.
    """
    try:
        exact = _entry(folder / _name(key, rank))
        if exact is not None:
            return [exact]
        larger = [entry for entry in entries_in(folder, key) if entry.rank > rank]
    except OSError:
        return []
    return sorted(larger, key=lambda entry: entry.rank)


def touch(entry: Entry) -> None:
    """Mark an entry as used now, where the folder lets us."""
    with contextlib.suppress(OSError):
        os.utime(entry.path)


def discard(entry: Entry) -> None:
    """Delete an entry, where the folder lets us."""
    with contextlib.suppress(OSError):
        entry.path.unlink()


def add(folder: Path, key: str, rank: int, data: bytes, *, limit: int) -> bool:
    """Store an entry, after deleting the least recently used ones it needs the room of.

    Args:
        folder: The folder of entries; made if missing.
        key: What the entry is filed under.
        rank: How many triplets it holds.
        data: The file's content.
        limit: Bytes the folder may hold. Several processes at once may pass it, each by no more
            than a sixteenth, until one of them lists the folder again.

    Returns:
        Whether it was stored: not if it alone is above the limit.

    Raises:
        UserError: The folder cannot be made or written, or the disk is full.
    """
    if len(data) > limit:
        return False
    _make_room(folder, len(data), limit)
    write_atomic(folder / _name(key, rank), data)
    return True


def size_limit() -> int:
    """Bytes the cache may hold; 0 turns it off.

    ``AILORA_CACHE_LIMIT`` is a number of bytes or one with a unit: 2GB (10^9 each), 2GiB (2^30).
    Unset or empty: 4 GB.

    Raises:
        UserError: The variable holds something else.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UserError(
            f"{LIMIT_VARIABLE}={text!r} is not a size; use bytes or a unit such as 2GB, "
            "or 0 to turn the cache off"
        )
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])


@contextlib.contextmanager
def one_at_a_time(folder: Path, key: str) -> Iterator[None]:
    """Hold the lock of `key`, so that one process computes a weight and the others wait to read it.

    It only saves work: entries are whole without it. So after five minutes, or where there is no
    locking or writing, the block runs all the same. Keys share 256 lock files, which stay: a lock
    file that is deleted while someone waits for it locks nothing.
    """
    held = None
    try:
        locks = folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{key[:2]}.lock", timeout=_LONGEST_WAIT)
        lock.acquire()
        held = lock
    except (OSError, NotImplementedError) as error:  # filelock's Timeout is an OSError
        logger.debug("no lock in %s: %s", folder, error)
    try:
        yield
    finally:
        if held is not None:
            held.release()


def _make_room(folder: Path, size: int, limit: int) -> None:
    """Delete until `size` bytes fit; list the folder only when the known free space is used up."""
    share = limit // _SHARES
    if _known_free.get((folder, limit), 0) < size:
        _sweep(folder, older_than=_LEFT_OVER_AFTER)
        oldest_first = sorted(entries_in(folder), key=lambda entry: entry.used)
        total = sum(entry.size for entry in oldest_first)
        if total + size > limit:
            total -= _delete(oldest_first, total - limit + max(size, share))
        _known_free[folder, limit] = max(min(limit - total, share), size)
    _known_free[folder, limit] -= size


def _delete(oldest_first: list[Entry], size: int) -> int:
    """Delete entries until `size` bytes are gone; how many went."""
    gone = 0
    for entry in oldest_first:
        if gone >= size:
            break
        discard(entry)
        gone += entry.size
    return gone


def _name(key: str, rank: int) -> str:
    return f"{key}-{rank}.safetensors"


def _entry(path: str | Path) -> Entry | None:
    """What a file is as an entry; None for other files and for one that has just gone."""
    name = _ENTRY.fullmatch(os.path.basename(path))  # noqa: PTH119  (see `candidates`)
    if name is None:
        return None
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return None
    return Entry(
        path=Path(path), key=name[1], rank=int(name[2]), size=facts.st_size, used=facts.st_mtime
    )


def _sweep(folder: Path, *, older_than: float) -> None:
    """Delete what writers that were killed have left."""
    now = time.time()
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if _LEFT_OVER.fullmatch(path.name) and now - path.lstat().st_mtime >= older_than:
                path.unlink()


@contextlib.contextmanager
def _named_in_errors(verb: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot {verb} the cache {folder}: {reason}; "
            "set AILORA_CACHE to a folder of your own, or mend this one's permissions"
        ) from error
