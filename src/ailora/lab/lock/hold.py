"""Holding a folder: taking its lock file, showing life, giving it back.

Made of exclusive creation and renaming alone, which file systems shared between machines have too.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ailora.errors import UserError
from ailora.files import unwritable, write_json
from ailora.lab.lock.owner import LIMIT, Owner, lives, look, this_process

LOCK = "lock.json"
BEAT = 5.0  # seconds between two signs of life


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


_HELD: dict[tuple[Path, int], Hold] = {}  # by folder and thread, to let a holder in again


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Hold]:
    """Hold a folder, which is made if missing; a thread that holds it already is let in again.

    A folder that is empty afterwards is removed, with those above that had to be made for it.

    Raises:
        LockedError: A process that lives holds it.
        UserError: The folder cannot be made or written.
    """
    folder = folder.absolute()
    key = (folder, threading.get_ident())
    if key in _HELD:
        yield _HELD[key]
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    mine = this_process()
    other = _take(folder / LOCK, mine)
    if other is not None:
        raise LockedError(f"{folder}: {other} is working there; wait for it to end, or stop it")
    _HELD[key] = Hold(folder, mine)
    try:
        with _beating(_HELD[key]):
            yield _HELD[key]
    finally:
        del _HELD[key]
        _release(folder / LOCK, mine)
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def holder(folder: Path) -> Owner | None:
    """The living process that holds a folder; None where nobody does."""
    found = look(folder / LOCK)
    return found.owner if found is not None and lives(found, folder) else None


def _take(path: Path, mine: Owner) -> Owner | None:
    """Write the lock; who has it instead, if that fails.

    A dead owner's lock may be replaced only by who holds the lock *on that lock*, named by the
    dead owner's token, and only if it still is what was judged dead. So of several processes that
    see the same dead owner one wins, and a late one cannot replace the winner's lock.
    """
    while not _create(path, mine):
        found = look(path)
        if found is None:
            continue
        if lives(found, path.parent):
            return found.owner
        with _alone(path, found.owner, mine) as other:
            if other is not None:
                return other
            if look(path) == found:
                write_json(path, asdict(mine))
                return None
    return None


def _release(path: Path, mine: Owner) -> None:
    with _alone(path, mine, mine) as other:
        found = look(path)
        if other is not None or found is None or found.owner != mine:
            return
        for claim in path.parent.glob(f"{path.name}.*"):  # of who died taking over
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
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        except FileNotFoundError:  # removed with the folder by a holder that left nothing in it
            continue
        except OSError as error:
            raise unwritable(path, error) from error
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(mine), stream)
        return True


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
        found = look(path)
        if found is None or found.owner != hold.owner:
            hold.lost = True
            return
        with contextlib.suppress(OSError):
            os.utime(path)
