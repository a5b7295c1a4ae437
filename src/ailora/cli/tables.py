"""Tables of weights for the terminal: spectra, and what training changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ailora.analysis.changes import Place
    from ailora.analysis.layers import LayerRow
    from ailora.analysis.spectra import Spectrum

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 8
_ENDS = {"principal": "first", "minor": "last"}
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


def spectra_table(found: Sequence[Spectrum]) -> Table:
    """A row a projection: its largest, median and smallest value, and the part that trains."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ailora.cli.console import console

    drawn = console.encoding.lower().startswith("utf")
    several = len({one.stack for one in found}) > 1
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits into 80 columns
    for title in ("layer", "role"):
        table.add_column(title)
    for title in ("largest", "median", "smallest", "eff. rank", "trains", "its energy"):
        table.add_column(title, justify="right")
    if drawn:
        table.add_column("spectrum", no_wrap=True)
    for one in found:
        ends = (one.values[0], one.median, one.values[-1])
        rank = f"{one.effective_rank:.3g}/{len(one.values)}"
        part = f"{_ENDS[one.part]} {one.rank}" if one.part else "-"
        share = "-" if one.energy_share is None else f"{100 * one.energy_share:.2g} %"
        line = [sparkline(one.values)] if drawn else []
        place = where(one, with_stack=several)
        table.add_row(place, one.role, *map(_cell, ends), rank, part, share, *line)
    return table


def spectra_row(one: Spectrum) -> dict[str, Any]:
    """The same as numbers, for files."""
    from ailora.analysis.changes import spread

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


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values from 0 to the largest as blocks, evenly picked from first to last."""
    count = min(width, len(values))
    picked = [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]
    top = max(*values, 1e-300)
    return "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in picked)


def where(place: Place, *, with_stack: bool) -> str:
    """``3``, or ``decoder 3 cross``; ``shared`` where one module serves every layer."""
    layer = "shared" if place.layer is None else str(place.layer)
    stack = place.stack if with_stack else ""
    kind = "cross" if place.attention == "cross" else ""
    return " ".join(part for part in (stack, layer, kind) if part)


def _layer_table(rows: Sequence[LayerRow], columns: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table

    from ailora.analysis.layers import flat

    table, several = Table(title_justify="left"), len({row.stack for row in rows}) > 1
    cells = [flat(row) for row in rows]
    shown = [(title, name) for title, name in columns if any(c[name] is not None for c in cells)]
    for title in ("layer", "role"):
        table.add_column(title)
    for title, _ in shown:
        table.add_column(title, justify="right")
    for row, values in zip(rows, cells, strict=True):
        place = where(row, with_stack=several)
        table.add_row(place, row.role, *(_cell(values[name]) for _, name in shown))
    return table


def _cell(value: float | str | None) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
