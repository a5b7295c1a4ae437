"""Local tables: csv, tsv and jsonl, each also gzipped, with the line every row came from."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.tasks.tables.broken import Place, Report, stop

SUFFIXES = (".csv", ".tsv", ".jsonl")
KINDS = (*SUFFIXES, ".json")
_BOM = b"\xef\xbb\xbf"
_LARGEST_FIELD = 1 << 24  # characters; csv's own limit of 131,072 is a long document


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as read, before any column has a meaning.

    Attributes:
        source: File or hub split, for messages.
        columns: In the order of the header, or of the first JSON object.
        rows: Line number (from 1; of the first line where a quoted field spans several), or place
            in a document, and values by column.
        label_names: Class names by index where the source declares them (hub ``ClassLabel``).
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Place, Mapping[str, Any]], ...]
    label_names: tuple[str, ...] | None = None


def kind_of(path: Path) -> str | None:
    """Return ``.csv``, ``.tsv`` or ``.jsonl`` by the file's name (``.gz`` set aside), else None."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def brief(value: object) -> str:
    """Return ``repr(value)``, cut to 60 characters: for quoting the user's data in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def find_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """Return the file in a folder whose name is one of the stems and one of `KINDS`.

    Raises:
        UserError: There are two of them, or the folder cannot be listed.
    """
    names = {f"{stem}{kind}{gz}" for stem in stems for kind in KINDS for gz in ("", ".gz")}
    with _file_errors(folder):
        files = sorted(file for file in folder.iterdir() if file.name in names)
    if len(files) > 1:
        both = " and ".join(file.name for file in files)
        raise UserError(f"{folder} has {both} for {stems[0]}; keep one")
    return files[0] if files else None


def read_table(path: Path, report: Report = stop) -> Table:
    """Read a whole file.

    csv has RFC 4180 quoting; tsv has none (a field holds no tab and no line end); jsonl has an
    object a line. UTF-8, with or without a byte-order mark. Blank lines are skipped.

    Args:
        path: The file.
        report: Told of each broken row: a line that is not UTF-8 or not a JSON object, or has
            more or fewer fields than the header. Unless it raises, the row is left out. A broken
            header or quoting raises at once, since after it no row can be trusted.

    Raises:
        UserError: Unknown kind, missing or unreadable file, a broken header or quoting, no row
            that can be used; the message gives file and line. And what ``report`` raises.
    """
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path}: not a table; expected {', '.join(SUFFIXES)}, each also with .gz")
    with _file_errors(path):
        rows = tuple(_objects(path, report) if kind == ".jsonl" else _records(path, kind, report))
    if not rows:
        raise UserError(
            f"{path} has no rows that can be used: an empty split; give a file with rows"
        )
    return Table(source=str(path), columns=tuple(rows[0][1]), rows=rows)


def _records(path: Path, kind: str, report: Report) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with _long_fields():
        foreign: dict[int, str] = {}
        lists = _field_lists(path, kind, foreign)
        first = next(lists, None)
        if first is None:
            return
        header = _checked_header(path, *first, foreign)
        for line, fields in lists:
            if foreign or len(fields) != len(header):
                report(str(path), *_fault(line, fields, header, foreign))
                foreign.clear()
            else:
                yield line, dict(zip(header, fields, strict=True))


def _field_lists(path: Path, kind: str, foreign: dict[int, str]) -> Iterator[tuple[int, list[str]]]:
    if kind == ".csv":
        reader = csv.reader(_lines(path, foreign), strict=True)
    else:
        reader = csv.reader(_lines(path, foreign), delimiter="\t", quoting=csv.QUOTE_NONE)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start}: broken row: {error}; mend it") from error


def _checked_header(path: Path, line: int, fields: list[str], foreign: dict[int, str]) -> list[str]:
    if foreign:
        stop(str(path), *next(iter(foreign.items())))
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}:{line}: column {twice[0]!r} appears twice in the header")
    return names


def _fault(
    line: int, fields: list[str], header: list[str], foreign: dict[int, str]
) -> tuple[int, str]:
    if foreign:
        return next(iter(foreign.items()))
    return line, (
        f"{len(fields)} fields where the header has {len(header)} "
        f"({', '.join(header)}); mend the row (a tsv field holds no tab or line end)"
    )


def _objects(path: Path, report: Report) -> Iterator[tuple[int, Mapping[str, Any]]]:
    foreign: dict[int, str] = {}
    for number, line in enumerate(_lines(path, foreign), start=1):
        if not line.strip():
            continue
        reason = foreign.pop(number, None)
        if reason is None:
            try:
                value = _object(line)
            except ValueError as error:
                reason = str(error)
            else:
                yield number, value
                continue
        report(str(path), number, reason)


def _object(line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}; mend the line") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {brief(value)}")
    return value


def _lines(path: Path, foreign: dict[int, str]) -> Iterator[str]:
    """Yield each line as text; say in ``foreign`` which are not UTF-8, their bytes escaped.

    So a quoted field that spans several lines keeps its end, and one record alone is broken.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                text = line.decode("utf-8", "surrogateescape")
                foreign[number] = (
                    f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start} of the "
                    "line; save the file as UTF-8"
                )
            yield text


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
