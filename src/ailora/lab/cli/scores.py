"""Scores as a table with its longer side as lines, since a terminal has few columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def score_table(
    title: str, scores: Mapping[str, Mapping[str, float]], *, rows: Mapping[str, Any] | None = None
) -> Table:
    """A table of scores: a column per split, say, and a line per metric; missing ones stay empty.

    Args:
        title: Title of the table.
        scores: Scores by column, then by line.
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
