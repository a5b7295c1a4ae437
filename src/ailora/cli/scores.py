"""Scores as a table, a line a metric: some tasks have more than a terminal has columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def score_table(
    title: str, scores: Mapping[str, Mapping[str, float]], *, rows: Mapping[str, Any] | None = None
) -> Table:
    """Scores of several splits or groups, a column each; what one of them lacks stays empty.

    Args:
        title: Of the table.
        scores: By split or group, then by metric.
        rows: How many rows each split has, for a line above the scores.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    table.add_column("", overflow="fold")
    for split in scores:
        table.add_column(Text(split), justify="right")
    if rows is not None:
        table.add_row("rows", *(str(rows[split]) for split in scores))
    for metric in dict.fromkeys(metric for own in scores.values() for metric in own):
        found = (own.get(metric) for own in scores.values())
        table.add_row(Text(metric), *("" if value is None else f"{value:.4f}" for value in found))
    return table
