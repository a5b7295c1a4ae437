"""What kind of file a file is: the columns of all its rows, and what the answers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ailora.errors import UserError
from ailora.lab.tasks.tables import columnar
from ailora.lab.tasks.tables.read import SQUAD_COLUMNS, header_of, kind_of, read_text, rows_in

ANSWER = "answer"


@dataclass(kw_only=True)
class Survey:
    """The columns of a file.

    Attributes:
        rows: How many rows have exactly these columns, by columns.
        flags: Whether the column ``answer`` holds true and false and nothing else.
    """

    rows: Counter[tuple[str, ...]] = field(default_factory=Counter)
    flags: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that any row has."""
        return tuple(dict.fromkeys(name for names in self.rows for name in names))


def survey(files: Sequence[Path]) -> Survey:
    """Look at all rows of files, one after the other.

    Rows that cannot be read count nothing, and nothing is told of them here: whatever reads the
    files will.
    """
    found, answers = Survey(), Counter[bool]()
    for path in files:
        try:
            _add(path, found, answers)
        except (UserError, OSError, pa.ArrowException):  # noqa: PERF203 - each file may be broken
            continue
    found.flags = answers[True] > 0 and not answers[False]
    return found


def _add(path: Path, found: Survey, answers: Counter[bool]) -> None:
    kind = kind_of(path)
    if kind in columnar.SUFFIXES:
        schema = columnar.schema_of(path)
        found.rows[tuple(schema.names)] += 1
        if ANSWER in schema.names:
            answers[pa.types.is_boolean(schema.field(ANSWER).type)] += 1
        return
    if kind == ".json" and _is_document(read_text(path)):
        found.rows[SQUAD_COLUMNS] += 1
        return
    if kind in (".csv", ".tsv"):
        found.rows[header_of(path)] += 1
    for _, row in rows_in(path, lambda *_: None):
        found.rows[tuple(row)] += 1
        if row.get(ANSWER) is not None:
            answers[is_flag(row[ANSWER])] += 1


def is_flag(value: Any) -> bool:
    """Whether an answer is true or false, perhaps as a word."""
    if isinstance(value, str):
        return value.strip().casefold() in ("true", "false")
    return isinstance(value, bool)


def _is_document(text: str) -> bool:
    """Whether a json file is one object, as SQuAD's are, rather than a list or many objects."""
    return text.lstrip().startswith("{") and '"data"' in text
