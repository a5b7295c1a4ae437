"""What was read of the user's data, to be said before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ailora.lab.tasks.tables.table import Table

LINES = 8  # of a statement on a screen
_NAMES = 8  # of columns or classes in one line


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a task's rows are and where they came from.

    Attributes:
        kind: Kind of task, in words.
        source: File, folder or hub data set.
        used: Name of the column by what it is used for.
        left_out: Columns that are not used.
        rows: Number of rows by split.
        classes: Number of training rows by class; empty where answers are no classes.
        positive: The class that the F1 of two classes is of, where that is a metric.
        remarks: One line each on rows left out, odd values and texts that splits share.
        made: One line each on how splits were made.
    """

    kind: str
    source: str
    used: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    rows: Mapping[str, int]
    classes: Mapping[str, int] = field(default_factory=dict)
    positive: str | None = None
    remarks: tuple[str, ...] = ()
    made: tuple[str, ...] = ()

    def lines(self, most: int | None = LINES) -> tuple[str, ...]:
        """One line on each thing, the remarks before how splits were made.

        Args:
            most: Lines at most, the last of which says how many more there are; None for all.
        """
        rows = row_counts(self.rows)
        what = (self._what(), f"rows: {rows}") if self.used else (f"{self._what()}, {rows}",)
        found = (*what, *self._classes(), *self.remarks, *self.made)
        if most is None or len(found) <= most:
            return found
        return (*found[: most - 1], f"and {len(found) - most + 1} more lines, in result.json")

    def facts(self) -> tuple[str, ...]:
        """The lines that are no remarks and not on splits: what was read, and the classes."""
        return (self._what(), *self._classes())

    def _what(self) -> str:
        used = ", ".join(f"{role} {name!r}" for role, name in self.used.items())
        left = f"; left out: {some(self.left_out)}" if self.left_out else ""
        return f"{self.source}: {self.kind}" + (f" ({used}{left})" if used else left)

    def _classes(self) -> tuple[str, ...]:
        if not self.classes:
            return ()
        counts = [f"{name} {count:,}" for name, count in self.classes.items()]
        positive = "" if self.positive is None else f"; f1 is of {self.positive!r}"
        return (f"classes and their training rows: {some(counts)}{positive}",)


def row_counts(rows: Mapping[str, int]) -> str:
    """Numbers of rows by split, in words."""
    purposes = {"train": "to train on", "selection": "to select by", "test": "to test on"}
    return ", ".join(f"{count:,} {purposes.get(split, split)}" for split, count in rows.items())


def columns_left_out(table: Table, used: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table that are not among those used."""
    return tuple(name for name in table.columns if name not in used)


def notes_of(tables: Mapping[str, Table]) -> tuple[str, ...]:
    """What was odd about reading the tables, each line once."""
    return tuple(dict.fromkeys(note for table in tables.values() for note in table.notes))


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _NAMES
    shown = (name or "''" for name in names[:_NAMES])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
