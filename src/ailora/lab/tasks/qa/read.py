"""Questions as files hold them: tables with a question a row, and SQuAD's own nested JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ailora.errors import UserError
from ailora.lab.tasks.tables.broken import Report, stop
from ailora.lab.tasks.tables.json_list import is_json_list, read_text
from ailora.lab.tasks.tables.read import Table, brief, read_table


def read_questions(path: Path, report: Report = stop) -> Table:
    """Read jsonl, csv or tsv with a question a row, or a file in SQuAD's format (v1.1 or v2.0).

    Args:
        path: The file.
        report: Told of each row, or part of a document, that is no object; unless it raises, that
            is left out. Rows of a document have their place in it for a line.

    Raises:
        UserError: Missing, unreadable or empty file, not UTF-8, not JSON, or another structure;
            with the line, or with the place inside the document.
    """
    if not is_json_list(path):
        return read_table(path, report)
    rows = tuple(_questions(str(path), _document(path), report))
    if not rows:
        raise UserError(f"{path} has no questions: an empty split; give a file with some")
    return Table(source=str(path), columns=tuple(rows[0][1]), rows=rows)


def _document(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}; mend the file") from error


def _questions(source: str, document: Any, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    for article_at, article in _children(source, "", document, "data", report):
        for at, paragraph in _children(source, article_at, article, "paragraphs", report):
            for place, question in _children(source, at, paragraph, "qas", report):
                outer = {"title": article.get("title"), "context": paragraph.get("context")}
                yield place, {**question, **outer}


def _children(
    source: str, place: str, parent: Any, key: str, report: Report
) -> Iterator[tuple[str, dict[str, Any]]]:
    before = f"{place}." if place else ""
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list):
        raise UserError(
            f"{source}: {before}no list {key!r}; expected SQuAD's data, paragraphs and qas, or a "
            "jsonl file"
        )
    for index, child in enumerate(found):
        at = f"{before}{key}[{index}]"
        if isinstance(child, dict):
            yield at, child
        else:
            report(source, at, f"expected a JSON object, got {brief(child)}; mend the file")
