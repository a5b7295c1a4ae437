"""One process at a time computes a weight; the others wait and read what it stored."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

logger = logging.getLogger(__name__)

_PATIENCE = 300.0  # seconds; longer than any decomposition measured, shorter than for ever


@contextlib.contextmanager
def turn(folder: Path, key: str) -> Iterator[None]:
    """Hold the lock of `key` in this folder, where the file system can lock.

    It only saves work: entries are whole without it. So after five minutes, or where there is no
    locking or writing, the block runs all the same. Keys share 256 lock files, which stay: a lock
    file that is deleted while someone waits for it locks nothing.
    """
    held = None
    try:
        locks = folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{key[:2]}.lock", timeout=_PATIENCE)
        lock.acquire()
        held = lock
    except (OSError, NotImplementedError) as error:  # filelock's Timeout is an OSError
        logger.debug("no lock in %s: %s", folder, error)
    try:
        yield
    finally:
        if held is not None:
            held.release()
