"""How figures look and how they are written: as SVG and PNG, with their data as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ailora.files import write_atomic
from ailora.lab.methods import variants
from ailora.lab.methods.table import Look
from ailora.lab.report.comparison import name_of

Rows = list[list[Any]]  # a table: names of the columns, then one row per line

ROLE_LOOKS: dict[str, tuple[str, str]] = {  # colour and marker
    "q": ("#0072B2", "o"),
    "k": ("#56B4E9", "s"),
    "v": ("#D55E00", "^"),
    "o": ("#009E73", "D"),
    "gate": ("#CC79A7", "v"),
    "up": ("#E69F00", "P"),
    "down": ("#999999", "X"),
}
_OTHER_LOOK = Look("#D55E00", "-", "x")


def draw(make: Callable[[], tuple[Figure, Rows]], path: Path, *, ids: str = "") -> str:
    """Draw a figure, write it as .svg, .png and .csv, and return the SVG.

    Args:
        make: Makes the figure and the table that it shows; called in the project's style.
        path: Path of the files, without their suffix.
        ids: What the ids in the SVG begin with; by default the name of the files.

    Raises:
        UserError: The folder of ``path`` cannot be written.
    """
    png = io.BytesIO()
    name = ids or path.name
    with _styled(name):
        figure, rows = make()
        drawing = _svg(figure, name)
        figure.savefig(png, format="png")
    write_atomic(path.with_suffix(".svg"), drawing)
    write_atomic(path.with_suffix(".png"), png.getvalue())
    if rows:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        write_atomic(path.with_suffix(".csv"), table.getvalue())
    return drawing


def svg_of(make: Callable[[], Figure], name: str) -> str:
    """Draw a figure as SVG alone; ``name`` keeps its ids apart from others' on one page."""
    with _styled(name):
        return _svg(make(), name)


def look_of(method: str) -> Look:
    """The method's look; those that are not known share one."""
    return variants.look_of(method) or _OTHER_LOOK


def draw_curve(
    axes: Axes,
    method: str,
    x: Iterable[float],
    mean: Iterable[float],
    band: tuple[Iterable[float], Iterable[float]],
) -> None:
    """A method's mean over the seeds as a line, and a band from the lowest to the highest."""
    look = look_of(method)
    drawn: dict[str, Any] = {"linestyle": look.line, "marker": look.marker, "markersize": 4}
    axes.plot(list(x), list(mean), color=look.color, label=name_of(method), **drawn)
    low, high = map(list, band)
    axes.fill_between(list(x), low, high, color=look.color, alpha=0.12, linewidth=0)


def draw_points(
    axes: Axes, method: str, x: Iterable[float], y: Iterable[float], size: float, **drawn: Any
) -> None:
    """A method's marker at each point, of a size in points; ``drawn`` goes to matplotlib."""
    look = look_of(method)
    drawn |= {"linestyle": "none", "marker": look.marker, "markersize": size}
    axes.plot(list(x), list(y), color=look.color, **drawn)


def draw_box(axes: Axes, y: float, height: float, values: Sequence[float], role: str) -> None:
    """A horizontal box in a role's colour, and every value as a point."""
    if not len(values):
        return
    color, marker = ROLE_LOOKS[role]
    box = axes.boxplot(
        [values],
        positions=[y],
        widths=height,
        orientation="horizontal",
        patch_artist=True,
        showfliers=False,
        manage_ticks=False,  # who draws several sets them once
    )
    box["boxes"][0].set(facecolor=color, alpha=0.35)
    box["medians"][0].set(color="black")
    places = y + np.linspace(-0.25, 0.25, len(values)) * height / 0.7
    axes.plot(values, places, marker, color=color, markersize=2.2)


def legend_above(figure: Figure) -> int:
    """What the first axes show, above the figure, in as few rows as its width has room for.

    Returns:
        The number of rows.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for columns in range(len(labels), 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return -(-len(labels) // columns)
        legend.remove()
    return 0


def count_words(counts: Sequence[int]) -> str:
    """``3``, or ``3 to 5`` where the counts differ."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


@contextmanager
def _styled(name: str) -> Iterator[None]:
    sheet = resources.files("ailora.lab.report") / "ailora.mplstyle"
    # A fixed salt makes the ids repeatable.
    salt = mpl.rc_context({"svg.hashsalt": name})
    with resources.as_file(sheet) as file, style.context(file), salt:
        yield


def _svg(figure: Figure, name: str) -> str:
    """The figure as SVG; laid out by hand, since matplotlib would draw it once more for that."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return _with_own_ids(svg.getvalue(), name)


def _with_own_ids(svg: str, name: str) -> str:
    """Put ``name`` before every id, so that two figures on one page do not clash."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
