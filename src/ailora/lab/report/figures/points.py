"""Matrices as points of the plane: figures 1 (a, b) and 8."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ailora.lab.report.comparison import name_of, order_of
from ailora.lab.report.figures.looks import look_of

# One inside the other where a layer hardly moved.
_BEFORE = {
    "before": {"marker": "o", "markersize": 7, "markerfacecolor": "none", "color": "#555555"},
    "after": {"marker": "D", "markersize": 3, "color": "#0072B2"},
}


def weight_points(table: pd.DataFrame) -> Figure:
    """W of every layer before and after: a row a method and role, PCA and t-SNE side by side."""
    methods = sorted(table["method"].unique(), key=order_of)
    rows = [(method, role) for method in methods for role in ("q", "v")]
    names = [f"$W^{role.upper()}$, {name_of(method)}" for method, role in rows]
    figure, grid = _grid(names, table)
    for (method, role), row in zip(rows, grid, strict=True):
        own = table[(table["method"] == method) & (table["role"] == role)]
        for axes, (_, points) in zip(row, _pictures(own), strict=True):
            _moves(axes, points)
            for group, look in _BEFORE.items():
                placed = points[points["group"] == group]
                axes.plot(placed["x"], placed["y"], linestyle="none", label=group, **look)  # type: ignore[arg-type]
    count = table["layer"].nunique()
    task, seed = table["task"].iloc[0], table["seed"].iloc[0]
    _legend(figure, f"training on {task}, seed {seed}; a point a layer (n = {count})")
    return figure


def factor_points(table: pd.DataFrame) -> Figure:
    """Trained A and B of every layer: a row a factor, PCA and t-SNE beside each other."""
    role, methods = table["role"].iloc[0], sorted(table["group"].unique(), key=order_of)
    figure, grid = _grid([f"${letter}$ of $W^{role.upper()}$" for letter in "AB"], table)
    for letter, row in zip("AB", grid, strict=True):
        for axes, (_, points) in zip(row, _pictures(table[table["matrix"] == letter]), strict=True):
            for method in methods:
                own, look = points[points["group"] == method], look_of(method)
                label = name_of(method)
                axes.plot(
                    own["x"], own["y"], look.marker, color=look.color, markersize=4, label=label
                )
    count, task, seed = table["layer"].nunique(), table["task"].iloc[0], table["seed"].iloc[0]
    _legend(
        figure, f"after training on {task}, seed {seed}; a point a layer (n = {count} a method)"
    )
    return figure


def _grid(rows: list[str], table: pd.DataFrame) -> tuple[Figure, list[list[Axes]]]:
    names = [name for name, _ in _pictures(table)]
    figure = Figure(figsize=(2.3 * len(names), 2.0 * len(rows) + 0.7), layout="constrained")
    grid = figure.subplots(len(rows), len(names), squeeze=False)
    for row, what in zip(grid, rows, strict=True):
        row[0].set_ylabel(what, fontsize=9)
        for axes, name in zip(row, names, strict=True):
            axes.set_title(name, fontsize=8.5, fontweight="normal")
            axes.tick_params(labelbottom=False, labelleft=False, length=0)
    return figure, [list(row) for row in grid]


def _pictures(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """PCA first, then t-SNE by the seed of its start."""
    found = []
    for (kind, start), points in table.groupby(["embedding", "start"], dropna=False):
        name = "PCA" if kind == "pca" else f"t-SNE, start {start:g}"
        found.append((name, points))
    return sorted(found, key=lambda one: (one[0] != "PCA", one[0]))


def _moves(axes: Axes, points: pd.DataFrame) -> None:
    """A line from each layer's place before to that after."""
    for _, layer in points.groupby("layer"):
        ends = layer.set_index("group")
        x, y = ([ends.loc[group, axis] for group in _BEFORE] for axis in "xy")
        axes.plot(x, y, "-", color="#bbbbbb", linewidth=0.8, zorder=1)


def _legend(figure: Figure, caption: str) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    figure.supxlabel(f"{caption}\naxes without unit; in t-SNE distances mean nothing", fontsize=8)
