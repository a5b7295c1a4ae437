"""Files opened as bytes, compressed or not, and what goes wrong with that in one line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from ailora.errors import UserError
from ailora.files import open_file
from ailora.lab.tasks.tables.watching import tell

_EVERY = 1000  # lines
_OPEN: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# What swells by more than any text does, and is large then, was made to fill memory or disk.
_MOST_TIMES, _LARGE = 200, 1 << 24  # bytes


def bare_name(path: Path | str) -> str:
    """The file's name in small letters, without the suffix of its compression."""
    name = Path(path).name.lower()
    return next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)


def opened(path: Path) -> AbstractContextManager[IO[bytes]]:
    """Open a file for reading; what is read is decompressed, by the suffix of its name."""
    return _decompressed(open_file(path), path.suffix.lower())


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, and tell whoever watches how much of it is read."""
    size = path.stat().st_size
    raw = open_file(path)
    with _decompressed(raw, path.suffix.lower()) as stream:
        for number, line in enumerate(stream):
            if number % _EVERY == 0:
                tell(f"reading {path.name}", raw.tell(), size)
            yield line
    tell(f"reading {path.name}", size, size)


@contextmanager
def _decompressed(raw: BufferedReader, suffix: str) -> Iterator[IO[bytes]]:
    with raw:
        if suffix == ".zst":
            stream = pa.input_stream(pa.PythonFile(raw), compression="zstd")
            yield _bounded(stream, raw)
        elif suffix in _OPEN:
            with _OPEN[suffix](raw) as found:
                yield _bounded(found, raw)
        else:
            yield raw


def _bounded(stream: Any, raw: BufferedReader) -> IO[bytes]:
    return cast("IO[bytes]", BufferedReader(_Bounded(stream, raw), 1 << 16))


class _Bounded(RawIOBase):
    """What is decompressed, until it is far more than a table can be."""

    def __init__(self, stream: Any, raw: BufferedReader) -> None:
        self._stream, self._name = stream, raw.name
        self._most = max(_LARGE, _MOST_TIMES * os.fstat(raw.fileno()).st_size)
        self._count = 0

    def readable(self) -> bool:
        """As any reader."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As any reader. Raises a UserError where it is too much."""
        data: bytes = self._stream.read(len(buffer))
        self._count += len(data)
        if self._count > self._most:
            raise UserError(
                f"{self._name}: unpacks to more than {_MOST_TIMES} times its size "
                f"({self._most >> 20} MB so far); unpack it yourself if that is meant"
            )
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong with opening or decompressing a file into a UserError."""
    suffix = path.suffix.lower()
    kind = {".gz": "gzip"}.get(suffix, suffix.removeprefix("."))
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise UserError(f"{path}: broken {kind} file: {error}; make it again") from error
    except OSError as error:
        if suffix in COMPRESSED and error.errno is None:
            raise UserError(f"{path}: broken {kind} file: {error}; make it again") from error
        reason = " ".join(str(error.strerror or error).split())
        raise UserError(f"cannot read {path}: {reason}") from error
