"""From a table to a data set: which columns hold the texts and the label, and what labels mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, Value

from ailora.errors import UserError
from ailora.tasks.read import Table, brief

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


def to_dataset(table: Table, columns: Columns, encode: Callable[[Any], int | float]) -> Dataset:
    """Return the columns ``text``, ``text_pair`` (for two texts) and ``label`` of a table.

    Args:
        table: The rows.
        columns: Which of its columns to take.
        encode: Turns a raw label into a class index (int) or a number (float); raises ValueError
            with the reason where it cannot.

    Raises:
        UserError: An empty or missing text or label, or one that ``encode`` refuses, with the line.
    """
    taken: dict[str, list[Any]] = {"text": [], "text_pair": [], "label": []}
    for line, row in table.rows:
        for name, target in zip(columns.text, ("text", "text_pair"), strict=False):
            with _place_in_errors(table.source, line, name):
                taken[target].append(_text(row.get(name)))
        with _place_in_errors(table.source, line, columns.label):
            taken["label"].append(encode(raw_label(row.get(columns.label))))
    if len(columns.text) == 1:
        del taken["text_pair"]
    kinds = {name: Value("string") for name in taken}
    kinds["label"] = Value("int64" if isinstance(taken["label"][0], int) else "float64")
    return Dataset.from_dict(taken, features=Features(kinds))


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


def class_names(table: Table, label: str) -> tuple[str, ...]:
    """Return the classes of a training table: numbers in numeric order, else alphabetically.

    Raises:
        UserError: One class only, or so many that the column cannot hold classes.
    """
    if table.label_names is not None:
        return table.label_names
    found = _distinct(table, label)
    where = f"{table.source}: column {label!r}"
    if len(found) == 1:
        raise UserError(
            f"{where} holds one class only ({brief(next(iter(found)))}): nothing to learn"
        )
    if len(found) > 20 and 2 * len(found) > len(table.rows):
        raise UserError(
            f"{where} has {len(found)} different values in {len(table.rows)} rows, too many for "
            "classes; name another label column, or ask for regression"
        )
    return tuple(sorted(found, key=_numbers_first))


def is_numeric_scale(table: Table, label: str) -> bool:
    """Say whether labels look like a regression target: all numbers, some with a fraction."""
    if table.label_names is not None:
        return False
    try:
        values = [float(text) for text in _distinct(table, label)]
    except ValueError:
        return False
    return all(map(math.isfinite, values)) and not all(value.is_integer() for value in values)


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


def _distinct(table: Table, label: str) -> set[str]:
    found = set()
    for line, row in table.rows:
        with _place_in_errors(table.source, line, label):
            found.add(raw_label(row.get(label)))
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text, got {brief(value)}; fill it in or drop the row")
    value.encode("utf-8")  # JSON can hold half a surrogate pair, which no tokenizer takes
    return value


@contextmanager
def _place_in_errors(source: str, line: int, column: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UserError(f"{source}:{line}: column {column!r}: {error}") from error


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return (False, float(text), text)
    except ValueError:
        return (True, 0.0, text)
