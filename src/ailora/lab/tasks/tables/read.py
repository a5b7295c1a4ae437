"""Local files as tables, compressed or not, with the line of every row.

csv, tsv, jsonl and json here; files stored by column in ``tables.columnar``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.tasks.tables import columnar
from ailora.lab.tasks.tables.compressed import (
    COMPRESSED,
    bare_name,
    file_errors,
    lines_of,
    opened,
)
from ailora.lab.tasks.tables.table import Report, Row, Rows, Table, brief, stop

_TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
SUFFIXES = (*_TEXT_SUFFIXES, *columnar.SUFFIXES)
FORMS = "csv, tsv, jsonl, json (each also as .gz, .bz2, .xz or .zst), parquet, arrow or feather"
# Columns that a json file in SQuAD's own form has, once it is read.
SQUAD_COLUMNS = ("question", "context", "answers")
_BOM = b"\xef\xbb\xbf"
_CR_ONLY = (
    "a carriage return (CR) alone, as old Macintosh files have it, ends no line here; save the "
    "file with line ends LF or CR LF"
)
_LARGEST_FIELD = 1 << 24  # characters; csv's own limit of 131,072 is a long document
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: _each_once(pairs))
_SPACE = re.compile(r"[ \t\r\n]*")


def read_table(path: Path, report: Report = stop) -> Table:
    """Look through a whole file; its rows are read again by whoever goes through them.

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
        raise UserError(f"{path}: not a table; expected {', '.join(_TEXT_SUFFIXES)} ({FORMS})")
    if kind in columnar.SUFFIXES:
        return columnar.read_columnar(path)
    spread, columns, count = Spread(), dict[str, None](), 0
    for _, row in rows_in(path, report, spread):
        count += 1
        if not row.keys() <= columns.keys():
            columns.update(dict.fromkeys(row))
    if not count:
        raise UserError(
            f"{path} has no rows that can be used: an empty split; give a file with rows"
        )
    # What is broken has been reported.
    rows = Rows(lambda: rows_in(path, lambda *_: None), count)
    return Table(source=str(path), columns=tuple(columns), rows=rows, notes=spread.notes(path))


def rows_in(path: Path, report: Report, spread: Spread | None = None) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a csv, tsv, jsonl or json file, each with its line.

    Raises:
        UserError: As `read_table`.
    """
    kind = kind_of(path)
    with file_errors(path):
        if kind == ".json":
            yield from _listed(path, report)
        elif kind == ".jsonl":
            yield from _objects(path, report)
        else:
            yield from _records(path, report, spread or Spread())


def header_of(path: Path) -> tuple[str, ...]:
    """Return the column names in the first row of a csv or tsv file.

    Raises:
        UserError: As `read_table`.
    """
    foreign: dict[int, str] = {}
    with file_errors(path), _long_fields():
        first = next(_field_lists(path, foreign), None)
        return tuple(_checked_header(path, *first, foreign)) if first else ()


@dataclass
class Spread:
    """Fields of a csv file that span several lines, as one does whose quote is never closed."""

    fields: int = 0
    longest: int = 0  # lines
    at: int = 0  # line of the longest

    def add(self, line: int, fields: Sequence[str]) -> None:
        """Count those of one row."""
        for field in fields:
            if (lines := len(field.strip("\r\n").splitlines())) > 1:
                self.fields += 1
                if lines > self.longest:
                    self.longest, self.at = lines, line

    def notes(self, path: Path) -> tuple[str, ...]:
        """Say how many there are, if any."""
        if not self.fields:
            return ()
        count = f"{self.fields} field{'s' * (self.fields > 1)} of {path.name}"
        span = "spans" if self.fields == 1 else "span"
        which = "" if self.fields == 1 else ", the longest"
        return (
            f"{count} {span} several lines{which}: {self.longest} lines in the row at "
            f"{path}:{self.at}; if that is not meant, look there for a stray quote",
        )


def read_text(path: Path) -> str:
    """Return a whole file, perhaps compressed, as UTF-8 with or without a byte-order mark.

    Raises:
        UserError: Missing or unreadable file, broken compression, or not UTF-8, with the line.
    """
    with file_errors(path), opened(path) as stream:
        data = stream.read()
    _check_encoding(path, data)
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not UTF-8: byte 0x{error.object[error.start]:02x}; "
            "save the file as UTF-8"
        ) from error


def kind_of(path: Path) -> str | None:
    """Return the one of `SUFFIXES` that the file's name has (compression aside), or None."""
    name = bare_name(path)
    found = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    packed = name != path.name.lower()
    return None if packed and found in columnar.SUFFIXES else found


def find_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """Return the file in a folder whose name is one of the stems and one of `SUFFIXES`.

    Raises:
        UserError: There are two of them, or the folder cannot be listed.
    """
    with file_errors(folder):
        found = sorted(file for file in folder.iterdir() if _is_named(file, stems))
    # The forms that were read first go before the others: what was read stays what is read.
    files = [file for file in found if _is_plain(file)] or found
    if len(files) > 1:
        both = " and ".join(file.name for file in files)
        raise UserError(f"{folder} has {both} for {stems[0]}; keep one")
    return files[0] if files else None


def _is_plain(file: Path) -> bool:
    return file.name.lower().removesuffix(".gz").endswith(_TEXT_SUFFIXES)


def _is_named(file: Path, stems: Sequence[str]) -> bool:
    kind = kind_of(file)
    return kind is not None and any(
        file.name in {f"{stem}{kind}{end}" for end in ("", *COMPRESSED)} for stem in stems
    )


def _records(path: Path, report: Report, spread: Spread) -> Iterator[tuple[int, Row]]:
    with _long_fields():
        foreign: dict[int, str] = {}
        lists = _field_lists(path, foreign)
        first = next(lists, None)
        if first is None:
            return
        header = _checked_header(path, *first, foreign)
        for line, fields in lists:
            if foreign or len(fields) != len(header) or _is_header(fields, header):
                report(str(path), *_fault(line, fields, header, foreign))
                foreign.clear()
            else:
                spread.add(line, fields)
                yield line, dict(zip(header, fields, strict=True))


def _field_lists(path: Path, foreign: dict[int, str]) -> Iterator[tuple[int, list[str]]]:
    if kind_of(path) == ".csv":
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
        if "new-line character" in str(error):
            raise UserError(f"{path}:{start}: {_CR_ONLY}") from error
        raise UserError(f"{path}:{start}: broken row: {error}; mend it") from error


def _checked_header(path: Path, line: int, fields: list[str], foreign: dict[int, str]) -> list[str]:
    if foreign:
        stop(str(path), *next(iter(foreign.items())))
    names = [field.strip() for field in fields]
    _check_separator(path, line, names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}:{line}: column {twice[0]!r} appears twice in the header")
    return names


def _check_separator(path: Path, line: int, names: Sequence[str]) -> None:
    """Raise for a header whose columns are not separated as the file's suffix says."""
    right = "\t" if kind_of(path) == ".tsv" else ","
    others = [mark for mark in ",;\t|" if mark != right]
    most = max(others, key=lambda mark: sum(name.count(mark) for name in names))
    count = sum(name.count(most) for name in names)
    if not count or (len(names) > 1 and count <= 2 * len(names)):
        return
    called = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}
    raise UserError(
        f"{path}:{line}: the columns are separated by {called[most]}, not {called[right]}: "
        f"{brief(right.join(names))}; save it with {called[right]}"
        + (" or name it .tsv" if most == "\t" else " or name it .csv" if most == "," else "")
    )


def _is_header(fields: list[str], header: list[str]) -> bool:
    return len(header) > 1 and [field.strip() for field in fields] == header


def _fault(
    line: int, fields: list[str], header: list[str], foreign: dict[int, str]
) -> tuple[int, str]:
    if foreign:
        return next(iter(foreign.items()))
    if _is_header(fields, header):
        return line, f"the header again ({', '.join(header)}); remove the line"
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
        value = json.loads(line, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        if "\r" in line.strip():
            raise ValueError(_CR_ONLY) from error
        raise ValueError(f"not JSON: {error}; mend the line") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {brief(value)}")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, of which each has a name of its own."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def _lines(path: Path, foreign: dict[int, str]) -> Iterator[str]:
    """Yield each line as text; say in ``foreign`` which are not UTF-8, their bytes escaped.

    So a quoted field that spans several lines keeps its end, and one record alone is broken.
    """
    for number, raw in enumerate(lines_of(path), start=1):
        if number == 1:
            _check_encoding(path, raw)
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


def _check_encoding(path: Path, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}:1: not UTF-8 but UTF-16, by its first bytes; save it as UTF-8")


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


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LARGEST_FIELD)  # a setting of the whole process: put it back
    try:
        yield
    finally:
        csv.field_size_limit(before)
