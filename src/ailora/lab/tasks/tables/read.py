"""Local files as tables: csv, tsv, jsonl and json, also gzipped, with the line of every row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.tasks.tables.table import Report, Row, Table, brief, stop

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
# Columns that a json file in SQuAD's own form has, once it is read.
SQUAD_COLUMNS = ("question", "context", "answers")
_BOM = b"\xef\xbb\xbf"
_LARGEST_FIELD = 1 << 24  # characters; csv's own limit of 131,072 is a long document
_PEEK = 1 << 20  # characters; a first row that is longer says nothing
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def read_table(path: Path, report: Report = stop) -> Table:
    """Read a whole file.

    csv has RFC 4180 quoting; tsv has none (a field holds no tab and no line end); jsonl has one
    object per line; json is a list of objects, as instruction sets such as Alpaca's come. UTF-8,
    with or without a byte-order mark. Blank lines are skipped.

    Args:
        path: The file.
        report: Told of each broken row: a line that is not UTF-8, a line or list element that is
            not a JSON object, or a row with more or fewer fields than the header. Unless it
            raises, the row is left out. A broken header, broken quoting, or a json file that is
            not UTF-8 or not JSON raises at once, since no row after it can be trusted.

    Raises:
        UserError: Unknown kind, missing or unreadable file, a broken header or quoting, no row
            that can be used; the message gives file and line. And what ``report`` raises.
    """
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path}: not a table; expected {', '.join(SUFFIXES)}, each also with .gz")
    with file_errors(path):
        if kind == ".json":
            rows = tuple(_listed(path, report))
        elif kind == ".jsonl":
            rows = tuple(_objects(path, report))
        else:
            rows = tuple(_records(path, kind, report))
    if not rows:
        raise UserError(
            f"{path} has no rows that can be used: an empty split; give a file with rows"
        )
    return Table(source=str(path), columns=tuple(rows[0][1]), rows=rows)


def read_text(path: Path) -> str:
    """Return a whole file, perhaps gzipped, as UTF-8 with or without a byte-order mark.

    Raises:
        UserError: Missing or unreadable file, broken gzip, or not UTF-8, with the line.
    """
    with file_errors(path), _opened(path) as stream:
        data = stream.read()
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not UTF-8: byte 0x{error.object[error.start]:02x}; "
            "save the file as UTF-8"
        ) from error


def first_columns(path: Path) -> tuple[str, ...]:
    """Return the columns of a file's first row without reading all of it.

    Empty where they cannot be read: whatever reads the whole file will say why.
    """
    try:
        with _opened(path) as stream:
            start = io.TextIOWrapper(stream, encoding="utf-8-sig").read(_PEEK)
    except (OSError, ValueError, EOFError):
        return ()
    if kind_of(path) == ".json":
        return _first_keys(start)
    first = next((line for line in start.splitlines() if line.strip()), "")
    if kind_of(path) == ".jsonl":
        return _keys(first)
    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    header = next(csv.reader(io.StringIO(first), delimiter=delimiter), [])
    return tuple(name.strip() for name in header)


def kind_of(path: Path) -> str | None:
    """Return the one of `SUFFIXES` that the file's name has (``.gz`` set aside), or None."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def find_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """Return the file in a folder whose name is one of the stems and one of `SUFFIXES`.

    Raises:
        UserError: There are two of them, or the folder cannot be listed.
    """
    names = {f"{stem}{suffix}{gz}" for stem in stems for suffix in SUFFIXES for gz in ("", ".gz")}
    with file_errors(folder):
        files = sorted(file for file in folder.iterdir() if file.name in names)
    if len(files) > 1:
        both = " and ".join(file.name for file in files)
        raise UserError(f"{folder} has {both} for {stems[0]}; keep one")
    return files[0] if files else None


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong with opening or unzipping a file into a UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: broken gzip file: {error}; make it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _records(path: Path, kind: str, report: Report) -> Iterator[tuple[int, Row]]:
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


def _objects(path: Path, report: Report) -> Iterator[tuple[int, Row]]:
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


def _object(line: str) -> Row:
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
    with _opened(path) as stream:
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


def _listed(path: Path, report: Report) -> Iterator[tuple[int, Row]]:
    for line, value in _elements(path, read_text(path)):
        if isinstance(value, dict):
            yield line, value
        else:
            report(str(path), line, f"expected a JSON object, got {brief(value)}")


def _elements(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Each element of the list with its line; by hand, since `json.load` gives no lines."""
    at, line, counted = _after_space(text, 0), 1, 0
    if text[at : at + 1] != "[":
        raise UserError(
            f"{path}:{text.count(chr(10), 0, at) + 1}: expected a list, [ ... ], of JSON objects; "
            "a file with one object per line is named .jsonl"
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


def _first_keys(start: str) -> tuple[str, ...]:
    """Keys of the first object of a list; a whole object is a document in SQuAD's own form."""
    if start.lstrip().startswith("{"):
        return SQUAD_COLUMNS
    try:
        return tuple(_DECODER.raw_decode(start[start.find("{") :])[0])
    except ValueError:
        return ()


def _keys(line: str) -> tuple[str, ...]:
    try:
        row = json.loads(line)
    except ValueError:
        return ()
    return tuple(row) if isinstance(row, dict) else ()


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LARGEST_FIELD)  # a setting of the whole process: put it back
    try:
        yield
    finally:
        csv.field_size_limit(before)
