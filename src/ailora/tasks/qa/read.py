"""Questions as files hold them: tables with a question a row, and SQuAD's own nested JSON."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.tasks.tables.read import Table, brief, read_table


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One question before anything about it has been checked.

    Attributes:
        place: Where it stands, for messages: ``file:line``, or file and path within a JSON file.
        values: By column.
    """

    place: str
    values: Mapping[str, Any]


def is_squad_json(path: Path) -> bool:
    """Whether a file's name is that of a JSON document (``.json``, perhaps ``.gz``)."""
    return path.name.lower().removesuffix(".gz").endswith(".json")


def read_questions(path: Path) -> tuple[RawRow, ...]:
    """Read jsonl, csv or tsv with a question a row, or a file in SQuAD's format (v1.1 or v2.0).

    Raises:
        UserError: Missing, unreadable or empty file, not UTF-8, not JSON, or another structure;
            with the line, or with the place inside the document.
    """
    if not is_squad_json(path):
        return rows_of(read_table(path))
    rows = tuple(_questions(path, _document(path)))
    if not rows:
        raise UserError(f"{path} has no questions: an empty split; give a file with some")
    return rows


def rows_of(table: Table) -> tuple[RawRow, ...]:
    """The rows of a table with their places."""
    return tuple(RawRow(place=f"{table.source}:{line}", values=row) for line, row in table.rows)


def _document(path: Path) -> Any:
    data = _bytes(path).removeprefix(b"\xef\xbb\xbf")
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}; mend the file") from error


def _bytes(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: broken gzip file: {error}; make it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _questions(path: Path, document: Any) -> Iterator[RawRow]:
    for at, article in _children(f"{path}: ", document, "data"):
        for inside, paragraph in _children(f"{at}.", article, "paragraphs"):
            for place, question in _children(f"{inside}.", paragraph, "qas"):
                outer = {"title": article.get("title"), "context": paragraph.get("context")}
                yield RawRow(place=place, values={**question, **outer})


def _children(before: str, parent: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list):
        raise UserError(
            f"{before}no list {key!r}; expected SQuAD's data, paragraphs and qas, or a jsonl file"
        )
    for index, child in enumerate(found):
        place = f"{before}{key}[{index}]"
        if not isinstance(child, dict):
            raise UserError(f"{place}: expected a JSON object, got {brief(child)}; mend the file")
        yield place, child
