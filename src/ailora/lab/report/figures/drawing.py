"""A figure on disk: as SVG and as PNG in the project's style, its data beside it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import style
from matplotlib.figure import Figure

from ailora.files import write_atomic

Rows = list[list[Any]]  # a table: names of the columns, then lines


def draw(make: Callable[[], tuple[Figure, Rows]], path: Path) -> str:
    """Draw a figure; write .svg, .png and .csv; return the SVG.

    Args:
        make: Makes the figure and the table that it shows; called in the project's style.
        path: Of the files, without their endings.

    Raises:
        UserError: The folder of ``path`` cannot be written.
    """
    png = io.BytesIO()
    with _styled(path.name):
        figure, rows = make()
        drawing = _svg(figure, path.name)
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


@contextmanager
def _styled(name: str) -> Iterator[None]:
    sheet = resources.files("ailora.lab.report") / "ailora.mplstyle"
    # A fixed salt makes the ids repeatable.
    salt = mpl.rc_context({"svg.hashsalt": name})
    with resources.as_file(sheet) as file, style.context(file), salt:
        yield


def _svg(figure: Figure, name: str) -> str:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return _with_own_ids(svg.getvalue(), name)


def _with_own_ids(svg: str, name: str) -> str:
    """Put ``name`` before every id, so that two figures on one page do not clash."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
