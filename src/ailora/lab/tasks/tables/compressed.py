"""Files opened as bytes, compressed or not, and what goes wrong with that in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from ailora.errors import UserError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def bare_name(path: Path | str) -> str:
    """The file's name in small letters, without the suffix of its compression."""
    name = Path(path).name.lower()
    return next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)


def opened(path: Path) -> IO[bytes]:
    """Open a file for reading; what is read is decompressed, by the suffix of its name."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path))
    if suffix == ".bz2":
        return bz2.open(path)
    if suffix == ".xz":
        return lzma.open(path)
    if suffix == ".zst":
        stream = pa.input_stream(str(path), compression="zstd")
        return cast("IO[bytes]", io.BufferedReader(stream))
    return path.open("rb")


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
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
