"""Local tables: csv, tsv and jsonl, each also gzipped, with the line every row came from."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ailora.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl")
_BOM = b"\xef\xbb\xbf"
_LARGEST_FIELD = 1 << 24  # characters; csv's own limit of 131,072 is a long document


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as read, before any column has a meaning.

    Attributes:
        source: File or hub split, for messages.
        columns: In the order of the header, or of the first JSON object.
        rows: Line number (from 1; of the first line where a quoted field spans several) and
            values by column.
        label_names: Class names by index where the source declares them (hub ``ClassLabel``).
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, Any]], ...]
    label_names: tuple[str, ...] | None = None


def kind_of(path: Path) -> str | None:
    """Return ``.csv``, ``.tsv`` or ``.jsonl`` by the file's name (``.gz`` set aside), else None."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def brief(value: object) -> str:
    """Return ``repr(value)``, cut to 60 characters: for quoting the user's data in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_table(path: Path) -> Table:
    """Read a whole file, stopping at the first broken row.

    csv has RFC 4180 quoting; tsv has none (a field holds no tab and no line end); jsonl has an
    object a line. UTF-8, with or without a byte-order mark. Blank lines are skipped.

    Raises:
        UserError: Unknown kind, missing or unreadable file, not UTF-8, a broken row, no rows; the
            message gives file and line.
    """
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path}: not a table; expected {', '.join(SUFFIXES)}, each also with .gz")
    with _file_errors(path):
        rows = tuple(_objects(path) if kind == ".jsonl" else _records(path, kind))
    if not rows:
        raise UserError(f"{path} has no rows: an empty split; give a file with rows")
    return Table(source=str(path), columns=tuple(rows[0][1]), rows=rows)


def _records(path: Path, kind: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with _long_fields():
        lists = _field_lists(path, kind)
        first = next(lists, None)
        if first is None:
            return
        header = _checked_header(path, *first)
        for line, fields in lists:
            _check_width(path, line, fields, header)
            yield line, dict(zip(header, fields, strict=True))


def _field_lists(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    if kind == ".csv":
        reader = csv.reader(_lines(path), strict=True)
    else:
        reader = csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start}: broken row: {error}; mend it") from error


def _checked_header(path: Path, line: int, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}:{line}: column {twice[0]!r} appears twice in the header")
    return names


def _check_width(path: Path, line: int, fields: list[str], header: list[str]) -> None:
    if len(fields) != len(header):
        raise UserError(
            f"{path}:{line}: {len(fields)} fields where the header has {len(header)} "
            f"({', '.join(header)}); mend the row (a tsv field holds no tab or line end)"
        )


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not JSON: {error}; mend the line") from error
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, got {brief(value)}")
        yield number, value


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: not UTF-8: byte 0x{line[error.start]:02x} at position "
                    f"{error.start} of the line; save the file as UTF-8"
                ) from error


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: broken gzip file: {error}; make it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LARGEST_FIELD)  # a setting of the whole process: put it back
    try:
        yield
    finally:
        csv.field_size_limit(before)
