"""Questions as files hold them: tables with a question a row, and SQuAD's own nested JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.tasks.tables.json_list import is_json_list, read_text
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


def read_questions(path: Path) -> tuple[RawRow, ...]:
    """Read jsonl, csv or tsv with a question a row, or a file in SQuAD's format (v1.1 or v2.0).

    Raises:
        UserError: Missing, unreadable or empty file, not UTF-8, not JSON, or another structure;
            with the line, or with the place inside the document.
    """
    if not is_json_list(path):
        return rows_of(read_table(path))
    rows = tuple(_questions(path, _document(path)))
    if not rows:
        raise UserError(f"{path} has no questions: an empty split; give a file with some")
    return rows


def rows_of(table: Table) -> tuple[RawRow, ...]:
    """The rows of a table with their places."""
    return tuple(RawRow(place=f"{table.source}:{line}", values=row) for line, row in table.rows)


def _document(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}; mend the file") from error


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
