"""A JSON file with a list of objects as a table, with the line every object begins at."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.tasks.tables.broken import Report, stop
from ailora.lab.tasks.tables.read import Table, brief

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def is_json_list(path: Path) -> bool:
    """Say whether the file's name ends in ``.json`` or ``.json.gz``."""
    return path.name.lower().removesuffix(".gz").endswith(".json")


def read_json_list(path: Path, report: Report = stop) -> Table:
    """Read a whole file, as instruction sets such as Alpaca's come.

    Args:
        path: UTF-8, with or without a byte-order mark, perhaps gzipped.
        report: Told of each element that is no object; unless it raises, that is left out. What is
            not JSON raises at once: no line after it can be trusted.

    Raises:
        UserError: Missing or unreadable file, not UTF-8, not JSON, not a list, no usable element;
            the message gives file and line.
    """
    rows = []
    for line, value in _elements(path, read_text(path)):
        if isinstance(value, dict):
            rows.append((line, value))
        else:
            report(str(path), line, f"expected a JSON object, got {brief(value)}")
    if not rows:
        raise UserError(
            f"{path} has no rows that can be used: an empty split; give a file with rows"
        )
    return Table(source=str(path), columns=tuple(rows[0][1]), rows=tuple(rows))


def read_text(path: Path) -> str:
    """Return a whole file, perhaps gzipped, as UTF-8 with or without a byte-order mark.

    Raises:
        UserError: Missing or unreadable file, broken gzip, or not UTF-8, with the line.
    """
    data = b""
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: broken gzip file: {error}; make it again") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _elements(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Each element of the list with its line; by hand, since `json.load` tells no lines."""
    at, line, counted = _after_space(text, 0), 1, 0
    if text[at : at + 1] != "[":
        raise UserError(
            f"{path}:{text.count(chr(10), 0, at) + 1}: expected a list, [ ... ], of JSON objects; "
            "a file with an object a line is named .jsonl"
        )
    at = _after_space(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{line}: not JSON: {error}; mend the file") from error
        yield line, value
        at = _after_space(text, end)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise UserError(f"{path}:{line}: not JSON: no comma and no ] after this; mend the file")
    if _after_space(text, at + 1) != len(text):
        line += text.count("\n", counted, at)
        raise UserError(f"{path}:{line}: not JSON: the list ends here, but not the file; mend it")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
