"""Tables of weights for the terminal: spectra, and what training changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ailora.cli.spectra import cell, where

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.lab.analysis.layers import LayerRow
    from ailora.roles.spectra import Spectrum

# Columns of the two tables, and fields of `flat` rows; one without any value is left out.
_HOW_FAR = (
    ("||dW||", "norm"),
    ("/ ||W||", "relative"),
    ("eff. rank", "effective_rank"),
    ("B ~ B0", "start_left"),
    ("A ~ A0", "start_right"),
    ("intruders", "intruders"),
)
_WHERE_TO = (
    ("B A left", "factors_left"),
    ("B A right", "factors_right"),
    ("dW left", "update_left"),
    ("dW right", "update_right"),
    ("chance", "random_left"),
)


def layer_tables(rows: Sequence[LayerRow]) -> list[Table]:
    """How far each projection moved; and, where it was measured, where to."""
    found = [_layer_table(rows, _HOW_FAR)]
    if any(row.factors for row in rows):
        found.append(_layer_table(rows, _WHERE_TO))
        found[-1].title = "similarity to full fine-tuning's dW (1: the same subspace)"
    return found


def spectra_row(one: Spectrum) -> dict[str, Any]:
    """The same as numbers, for files."""
    from ailora.roles.position import spread

    return {
        **spread(one),
        "rows": one.shape[0],
        "columns": one.shape[1],
        "largest": one.values[0],
        "median": one.median,
        "smallest": one.values[-1],
        "effective_rank": one.effective_rank,
        "stable_rank": one.stable_rank,
        "part": one.part,
        "rank": one.rank,
        "energy_share": one.energy_share,
    }


def _layer_table(rows: Sequence[LayerRow], columns: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table

    from ailora.lab.analysis.layers import flat

    table, several = Table(title_justify="left"), len({row.stack for row in rows}) > 1
    cells = [flat(row) for row in rows]
    shown = [(title, name) for title, name in columns if any(c[name] is not None for c in cells)]
    for title in ("layer", "role"):
        table.add_column(title)
    for title, _ in shown:
        table.add_column(title, justify="right")
    for row, values in zip(rows, cells, strict=True):
        place = where(row, with_stack=several)
        table.add_row(place, row.role, *(cell(values[name]) for _, name in shown))
    return table
