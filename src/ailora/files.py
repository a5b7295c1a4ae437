"""Files that are whole or absent: atomic writes, hashes, and the user's cache folder.

The bottom layer: standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ailora.errors import UserError

__all__ = [
    "append_line",
    "cache_dir",
    "cache_path",
    "check_unchanged",
    "is_finite",
    "open_file",
    "parse_json",
    "read_text",
    "remove_temporary",
    "require_file",
    "seen",
    "sha256_of",
    "sync_tree",
    "unreadable",
    "unwritable",
    "usual_mode",
    "write_atomic",
    "write_json",
    "written_whole",
]


# A pipe that nobody writes to is opened all the same; Windows has other modes to think of.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, never a part.

    A temporary file in the same folder is synchronised to disk and renamed over ``path``; missing
    parent folders are made. Text is UTF-8 with its line ends as given.

    Raises:
        UserError: The folder cannot be made or written, or the disk is full.
    """
    with written_whole(path) as stream:
        stream.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream to a temporary file that becomes ``path`` when it is whole and on disk.

    For content that is not in memory at once; else as ``write_atomic``.

    Raises:
        UserError: The folder cannot be made or written, or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            try:
                yield stream
            except OSError as error:
                if error.filename is not None:  # of what is copied; the stream's own names none
                    raise unreadable(error) from error
                raise
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(usual_mode())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the folder is gone, or is none any more
                temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> UserError:
    """What to tell someone whose ``path`` cannot be written: free space, or another folder."""
    advice = "choose a folder you can write to"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space and run it again"
    elif error.errno == errno.EFBIG:  # FAT ends at 4 GB, a user's limit where `ulimit -f` says
        advice = "choose a folder on a file system, and with a limit, that lets files be as large"
    return UserError(f"cannot write {path}: {error.strerror or error}; {advice}")


def unreadable(error: OSError) -> UserError:
    """What to tell someone of a file that the system does not let be opened, read or changed."""
    return UserError(
        f"{os.fsdecode(error.filename)}: {error.strerror or error}; look whether it is there, is "
        "yours to use, and has a name that the system takes"
    )


def write_json(path: Path, obj: Any) -> None:
    """Write ``obj`` as indented JSON, keys in the order given, atomically.

    Raises:
        UserError: As for ``write_atomic``.
        ValueError: A float in ``obj`` is NaN or infinite, which JSON cannot hold.
        TypeError: ``obj`` holds something that is not JSON.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text + "\n")


def open_file(path: Path) -> io.BufferedReader:
    """Open a file for reading, as bytes; a pipe or a device, which may have no end, is refused.

    Raises:
        OSError: It is not there, no regular file, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | _AT_ONCE)
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "is a pipe or a device, no file", str(path))


def require_file(path: Path) -> None:
    """Raise `open_file`'s OSError where a library that opens a path itself would wait for ever."""
    open_file(path).close()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    r"""The text of a file, with ``\n`` at the ends of its lines; see `open_file`.

    Raises:
        OSError: As for `open_file`.
        UnicodeDecodeError: It is not in that encoding.
    """
    with io.TextIOWrapper(open_file(path), encoding, errors) as stream:
        return stream.read()


def parse_json(text: str | bytes) -> Any:
    """``json.loads`` whose every refusal is a ValueError, also of brackets nested too deeply.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def is_finite(number: float) -> bool:
    """Whether a float holds a number of a JSON file: no NaN, no infinity, no hundreds of digits."""
    return abs(number) <= sys.float_info.max


def append_line(path: Path, line: str) -> None:
    r"""Add one line to ``path`` (made if missing, with its parents) and synchronise it to disk.

    Args:
        path: The file.
        line: The text without its line end.

    Raises:
        UserError: The file or its folder cannot be written.
        ValueError: ``line`` holds a line end of its own (``\n`` or ``\r``).
    """
    if "\n" in line or "\r" in line:
        raise ValueError(f"append_line writes one line, got {line!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(line.encode("utf-8") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise unwritable(path, error) from error


def sync_tree(folder: Path) -> None:
    """Put everything in a folder on disk, for whoever renames it or counts on it.

    Raises:
        OSError: A file cannot be synchronised: the disk is full, ...
    """
    inside = list(folder.rglob("*"))
    for path in filter(Path.is_file, inside):
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for path in (*filter(Path.is_dir, inside), folder):
        _sync_folder(path)


def remove_temporary(folder: Path) -> None:
    """Delete what killed writers have left anywhere in a folder that nobody else writes."""
    for left in list(folder.rglob(".*.tmp")):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


Seen = tuple[int, int, int]  # what tells a file from what stood there before


def seen(path: Path | int) -> Seen:
    """A file as it is now, by path or descriptor: its inode, size and time of change."""
    about = os.stat(path)  # noqa: PTH116 - of a descriptor too
    return about.st_ino, about.st_size, about.st_mtime_ns


def check_unchanged(path: Path, before: Seen) -> None:
    """Raise a UserError unless a file is still the one that was read.

    Weights are mapped from their files and read a tensor at a time: what is made of a file that
    somebody replaces meanwhile is of two models, and looks like that of one.
    """
    try:
        same = seen(path) == before
    except OSError:
        same = False
    if not same:
        raise UserError(
            f"{path}: changed while it was read, so the result would be of two versions of it; "
            "wait until nobody writes there, delete the unfinished result and run it again"
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 lower-case hex digits, read a block at a time."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def usual_mode(*, folder: bool = False) -> int:
    """The mode that the umask gives a new file or folder; ``tempfile`` makes private ones."""
    return (0o777 if folder else 0o666) & ~_umask()


def _umask() -> int:
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)  # reading it sets it, for other threads too: to what keeps them private
    os.umask(mask)
    return mask


def cache_path() -> Path:
    """Return where this user's cache belongs, without making or checking it.

    ``AILORA_CACHE`` if set, else ``ailora`` in the platform's own cache folder
    (``XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches``, ``%LOCALAPPDATA%``).
    """
    own = os.environ.get("AILORA_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return _platform_cache() / "ailora"


def cache_dir() -> Path:
    """Return the cache folder, made if missing.

    Raises:
        UserError: It cannot be made, is not a folder, or cannot be written to.
    """
    folder = cache_path()
    advice = "set AILORA_CACHE to a folder you can write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write to the cache folder {folder}: {reason}; {advice}") from error
    return folder


def _platform_cache() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) if base else _home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and is to be ignored.
    return Path(base) if Path(base).is_absolute() else _home() / ".cache"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UserError(
            "no home folder to keep the cache in; set AILORA_CACHE to a folder you can write to"
        ) from error


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable; not every platform or file system lets a folder be opened.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
