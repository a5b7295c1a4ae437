"""From a table to a data set: which columns hold the texts and the label, and what labels mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ailora.errors import UserError
from ailora.lab.tasks.tables.broken import Place, Report, stop
from ailora.lab.tasks.tables.read import Table, brief

# Tried in this order when the caller names no text column; pairs first, since a table with
# "sentence1" and "sentence2" may also have a "text".
_KNOWN_TEXT: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("sentence",),
    ("text",),
    ("review",),
    ("content",),
)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of one or two text columns and of the label column."""

    text: tuple[str, ...]
    label: str


def choose_columns(table: Table, text: Sequence[str] | None, label: str) -> Columns:
    """Take the named columns, or known names for the texts where none is named.

    Raises:
        UserError: A named column is missing, none is known, or more than two texts are named; the
            message lists the columns present.
    """
    present = f"columns present: {', '.join(table.columns)}"
    if text is None:
        names = next((known for known in _KNOWN_TEXT if set(known) <= set(table.columns)), ())
        if not names:
            raise UserError(f"{table.source}: no text column known by name; name it ({present})")
    else:
        names = (text,) if isinstance(text, str) else tuple(text)
        if len(names) not in (1, 2):
            raise UserError(f"one or two text columns are needed, got {list(names)!r}")
    for name in (*names, label):
        if name not in table.columns:
            raise UserError(f"{table.source}: no column {name!r}; name another ({present})")
    return Columns(text=names, label=label)


def to_dataset(
    table: Table,
    columns: Columns,
    encode: Callable[[str], int | float],
    report: Report = stop,
) -> Dataset:
    """Return the columns ``text``, ``text_pair`` (for two texts) and ``label`` of a table.

    Args:
        table: The rows.
        columns: Which of its columns to take.
        encode: Turns a raw label into a class index (int) or a number (float); raises ValueError
            with the reason where it cannot.
        report: Told of each row with an empty or missing text or label, or one that ``encode``
            refuses. Unless it raises, the row is left out.

    Raises:
        UserError: No row is left. And what ``report`` raises.
    """
    taken = (_taken(table.source, line, row, columns, encode, report) for line, row in table.rows)
    rows = [row for row in taken if row is not None]
    if not rows:
        raise UserError(f"{table.source} has no rows that can be used: an empty split")
    names = (*("text", "text_pair")[: len(columns.text)], "label")
    by_column = map(list, zip(*rows, strict=True))
    # Types are inferred (str, int64, float64): told, datasets converts every value on its own.
    return Dataset.from_dict(dict(zip(names, by_column, strict=True)))


def _taken(
    source: str,
    line: Place,
    row: Mapping[str, Any],
    columns: Columns,
    encode: Callable[[str], int | float],
    report: Report,
) -> tuple[Any, ...] | None:
    values: list[Any] = []
    name = ""
    try:
        for name in columns.text:
            values.append(_text(row.get(name)))  # noqa: PERF401 - an error needs the name
        name = columns.label
        values.append(encode(raw_label(row.get(name))))
    except ValueError as error:
        report(source, line, f"column {name!r}: {error}")
        return None
    return tuple(values)


def raw_label(value: Any) -> str:
    """Return a label as text, so that 1 in JSON and ``1`` in csv are the same class.

    Raises:
        ValueError: It is missing, empty, or not a scalar.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"expected a label, got {brief(value)}; fill it in or drop the row")
    return str(value).strip()


def label_values(table: Table, label: str) -> frozenset[str]:
    """Return the different labels of a table as text; those that cannot be used are passed over."""
    found = set()
    for _, row in table.rows:
        with suppress(ValueError):
            found.add(raw_label(row.get(label)))
    return frozenset(found)


def class_names(table: Table, label: str, values: Set[str]) -> tuple[str, ...]:
    """Return the classes of a training table: numbers in numeric order, else alphabetically.

    Args:
        table: If its source declares class names, those are returned.
        label: The label column.
        values: Its ``label_values``.

    Raises:
        UserError: One class only, or so many that the column cannot hold classes.
    """
    if table.label_names is not None:
        return table.label_names
    where = f"{table.source}: column {label!r}"
    if len(values) == 1:
        raise UserError(
            f"{where} holds one class only ({brief(next(iter(values)))}): nothing to learn"
        )
    if len(values) > 20 and 2 * len(values) > len(table.rows):
        raise UserError(
            f"{where} has {len(values)} different values in {len(table.rows)} rows, too many for "
            "classes; name another label column, or ask for regression"
        )
    return tuple(sorted(values, key=_numbers_first))


def is_numeric_scale(values: Set[str]) -> bool:
    """Say whether labels look like a regression target: all numbers, some with a fraction."""
    try:
        numbers = [float(text) for text in values]
    except ValueError:
        return False
    return all(map(math.isfinite, numbers)) and not all(map(float.is_integer, numbers))


def class_encoder(names: tuple[str, ...]) -> Callable[[str], int]:
    """Return a function from a class name to its index; ValueError for an unknown one."""
    index = {name: position for position, name in enumerate(names)}
    known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")

    def encode(text: str) -> int:
        if text not in index:
            raise ValueError(f"label {brief(text)} is not in train (there: {known})")
        return index[text]

    return encode


def number_encoder(text: str) -> float:
    """Return a label as a finite float; ValueError where it is none."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"expected a number for regression, got {brief(text)}") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number for regression, got {brief(text)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text, got {brief(value)}; fill it in or drop the row")
    value.encode("utf-8")  # JSON can hold half a surrogate pair, which no tokenizer takes
    return value


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return (False, float(text), text)
    except ValueError:
        return (True, 0.0, text)
