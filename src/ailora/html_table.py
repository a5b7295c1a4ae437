"""Small HTML tables for notebooks, in which no name means anything but itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 40


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    notes: Iterable[str] = (),
) -> str:
    """A table with its title above and its notes below; every text is escaped.

    Args:
        header: Titles of the columns.
        rows: Cells, as many per row as there are titles; beyond 40 rows the rest is counted.
        title: What the table is of.
        notes: Lines below the table; empty ones are left out.
    """
    shown = list(rows[:MOST_ROWS])
    more = [f"and {len(rows) - len(shown)} more rows"] if len(rows) > len(shown) else []
    below = "".join(f"<div><small>{escape(note)}</small></div>" for note in (*more, *notes) if note)
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    head = f"<thead>{_line(header, 'th')}</thead>"
    body = f"<tbody>{''.join(_line(row, 'td') for row in shown)}</tbody>"
    return f"<div><table>{caption}{head}{body}</table>{below}</div>"


def _line(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
