"""Scores as a table, with the longer side as lines: a terminal has few columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def score_table(
    title: str, scores: Mapping[str, Mapping[str, float]], *, rows: Mapping[str, Any] | None = None
) -> Table:
    """Scores in columns, say of splits, by line, say of metrics; what a column lacks stays empty.

    Args:
        title: Of the table.
        scores: By column, then by line.
        rows: How many rows each column is of, for a line above the scores.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    table.add_column("", overflow="fold")
    for column in scores:
        table.add_column(Text(column), justify="right")
    if rows is not None:
        table.add_row("rows", *(str(rows[column]) for column in scores))
    for line in dict.fromkeys(line for own in scores.values() for line in own):
        found = (own.get(line) for own in scores.values())
        table.add_row(Text(line), *("" if value is None else f"{value:.4f}" for value in found))
    return table
