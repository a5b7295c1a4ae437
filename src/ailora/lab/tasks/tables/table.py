"""Tables of rows as read, and what becomes of rows that cannot be used.

A row that cannot be used is reported with its file and line. The first one stops the reading, or
all of them are left out and counted: see `BrokenRows`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ailora.errors import UserError
from ailora.lab.tasks.tables.watching import watched

OnBroken = Literal["stop", "skip"]
Row = Mapping[str, Any]
Place = int | str  # the line, from 1; or where in a document that is one value
# Told of each broken row: file or hub split, place, what is wrong. It may raise.
Report = Callable[[str, Place, str], None]
_Value = TypeVar("_Value")
PLACE = "place"  # column of a split under way that has file and line of each row
_MISSING = {"nan", "-nan", "none", "null", "na", "n/a", "<na>", "#n/a", "#na", "nat", "<nat>"}
_LONGEST = max(map(len, _MISSING))  # a long text is told at once


class Rows:
    """Rows that are read anew each time one goes through them, so that few are held at once.

    Args:
        read: Reads them: each has its line number (from 1; of the first line where a quoted field
            spans several) or its place in a document, and values by column.
        count: How many there are.
    """

    def __init__(self, read: Callable[[], Iterable[tuple[Place, Row]]], count: int) -> None:
        self._read = read
        self._count = count

    def __iter__(self) -> Iterator[tuple[Place, Row]]:
        return iter(self._read())

    def __len__(self) -> int:
        return self._count


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as read, before any column has a meaning.

    Attributes:
        source: File or hub split, for messages.
        columns: Names, in the order of the header or in which the rows bring them: a column of any
            row is one of the table, and a row may lack it.
        rows: The rows, with their places.
        class_names: Class names by index of the columns for which the source declares them
            (``ClassLabel`` of `datasets`).
        notes: What was odd about the reading, one line each.
    """

    source: str
    columns: tuple[str, ...]
    rows: Rows
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def require(self, *names: str) -> None:
        """Raise a UserError that lists the columns present unless all the names are among them."""
        for name in names:
            if name not in self.columns:
                raise UserError(
                    f"{self.source}: no column {name!r}; name another "
                    f"(columns present: {', '.join(self.columns)})"
                )


def missing_words(table: Table, columns: Sequence[str]) -> tuple[str, ...]:
    """Say which of the columns hold words that usually mean a missing value, and how often.

    They are read as words: ``None`` may be a class, and ``N/A`` a text.
    """
    found: dict[str, _Words] = {column: _Words() for column in columns}
    for place, row in watched(table.rows, "looking for missing values", len(table.rows)):
        for column, words in found.items():
            value = row.get(column)
            if isinstance(value, str) and means_missing(value):
                words.add(place, value.strip())
    return tuple(
        f"{words.rows} row{'s' if words.rows > 1 else ''} with "
        f"{' or '.join(map(repr, words.there))} as {column!r}, read as a word; "
        f"the first is {_at(table.source, words.first)}"
        for column, words in found.items()
        if words.rows
    )


@dataclass
class _Words:
    """Words that mean a missing value in one column."""

    rows: int = 0
    first: Place = 0
    there: dict[str, None] = field(default_factory=dict)

    def add(self, place: Place, word: str) -> None:
        self.first = self.first if self.rows else place
        self.rows += 1
        self.there[word] = None


def quoted_values(table: Table, columns: Sequence[str]) -> tuple[str, ...]:
    """Say which of the columns hold values in quotes, as a csv file reads them no more.

    A field that has quotes after a space, or one of a tsv file that was written as csv, keeps them.
    """
    found: dict[str, _Quoted] = {column: _Quoted() for column in columns}
    for place, row in table.rows:
        for column, quoted in found.items():
            if isinstance(row.get(column), str):
                quoted.add(place, row[column].strip())
    return tuple(
        f"{quoted.rows} row{'s' if quoted.rows > 1 else ''} with quotes around {column!r}, "
        f"which are read as a part of it; the first is {_at(table.source, quoted.first)}"
        for column, quoted in found.items()
        if quoted.rows and (quoted.doubled or quoted.rows == quoted.texts)
    )


@dataclass
class _Quoted:
    """Values of one column that stand in quotes."""

    texts: int = 0
    rows: int = 0
    first: Place = 0
    doubled: bool = False

    def add(self, place: Place, text: str) -> None:
        self.texts += 1
        if not (len(text) > 1 and text[0] == text[-1] == '"'):
            return
        self.first = self.first if self.rows else place
        self.rows += 1
        self.doubled = self.doubled or '""' in text[1:-1]


def means_missing(text: str) -> bool:
    """Whether a text is one of the words by which pandas and others write a missing value."""
    word = text.strip()
    return len(word) <= _LONGEST and word.casefold() in _MISSING


def stop(source: str, place: Place, reason: str) -> None:
    """Raise the UserError of a broken row: where it is and what is wrong with it."""
    raise UserError(f"{_at(source, place)}: {reason}")


class BrokenRows:
    """Takes the reports of one load and follows its rule.

    Args:
        on_broken: "stop" or "skip". None stops at rows of local files and skips those of the hub: a
            local file can be mended, so nothing is lost in silence. A hub data set cannot, and
            official ones have broken rows too (two questions of QQP's train split are empty, as
            huggingface/datasets issue 277 found), which must not keep anybody from using the rest.
        local: Whether the rows are those of local files.

    Raises:
        UserError: Neither of the two rules.
    """

    def __init__(self, on_broken: OnBroken | None, *, local: bool) -> None:
        if on_broken is not None and on_broken not in get_args(OnBroken):
            raise UserError(f"on_broken={on_broken!r}: must be stop or skip")
        self._rule = on_broken or ("stop" if local else "skip")
        self._count: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def report(self, source: str, place: Place, reason: str) -> None:
        """Count a row that is left out.

        Raises:
            UserError: The rule is to stop.
        """
        if self._rule == "stop":
            stop(source, place, f'{reason} (or leave such rows out: on_broken="skip")')
        self._count[source] = self._count.get(source, 0) + 1
        self._first.setdefault(source, f"{_at(source, place)}: {reason}")

    def notes(self) -> tuple[str, ...]:
        """Say for each source how many rows were left out, and where and why the first was."""
        return tuple(
            f"{count} broken {'row' if count == 1 else 'rows'} left out; "
            f"the first is {self._first[source]}"
            for source, count in self._count.items()
        )


def usable_rows(
    table: Table,
    convert: Callable[[Row], _Value],
    report: Report = stop,
    *,
    identity: Callable[[_Value], str] | None = None,
) -> Iterator[tuple[str, _Value]]:
    """Convert each row of a table; report those that cannot be used and leave them out.

    Args:
        table: The rows.
        convert: Makes a value of a row; raises a ValueError that says what is wrong with it.
        report: Told of each row that ``convert`` refuses. Unless it raises, the row is left out.
        identity: Id of a value. A row with the id of an earlier one cannot be used either.

    Yields:
        File and line of a row, and its value.

    Raises:
        UserError: In the end, no row was left. And what ``report`` raises.
    """
    places, kept, first = dict[str, Place](), 0, ""
    name = str(Path(*Path(table.source).parts[-2:]))
    for place, row in watched(table.rows, "checking rows", len(table.rows)):
        try:
            value = convert(row)
            if identity is not None:
                _note_id(identity(value), place, places, table.source)
        except ValueError as error:  # noqa: PERF203 - each row may be the broken one
            report(table.source, place, str(error))
            first = first or f"; {_at(table.source, place)}: {error}"
        else:
            kept += 1
            yield _at(name, place), value
    if not kept:
        raise UserError(f"{table.source} has no rows that can be used: an empty split{first}")


def text_in(row: Row, column: str, *, numbers: bool = True) -> str:
    """Return the text of one column of a row.

    Args:
        row: Values by column.
        column: The column.
        numbers: Take a number as it is written, instead of refusing it.

    Raises:
        ValueError: It is missing, blank, not a text, or no valid Unicode.
    """
    value = row.get(column)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if numbers and is_number and value == value:  # NaN, as pandas writes null, is no number
        return str(value)
    if not isinstance(value, str) or is_blank(value):
        raise ValueError(
            f"column {column!r}: expected text, got {brief(value)}; fill it in or drop the row"
        )
    try:
        value.encode("utf-8")  # JSON can hold half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise ValueError(
            f"column {column!r}: half a surrogate pair at character {error.start}; mend the text"
        ) from error
    return value


def is_blank(text: str) -> bool:
    """Whether there is nothing to be seen in a text: white space, marks without a width."""
    return not any(
        not character.isspace() and unicodedata.category(character) not in ("Cf", "Cc")
        for character in text
    )


def brief(value: object) -> str:
    """Return ``repr(value)``, cut to 60 characters: for quoting the user's data in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _at(source: str, place: Place) -> str:
    """A row's place, for a message: ``file:line``, or ``file: place``."""
    return f"{source}:{place}" if isinstance(place, int) else f"{source}: {place}"


def _note_id(name: str, place: Place, places: dict[str, Place], source: str) -> None:
    if name in places:
        raise ValueError(
            f"id {brief(name)} is also at {_at(source, places[name])}; give each row its own"
        )
    places[name] = place
