"""The paper's panels, each drawn from its table: layers, curves, scores, points of the plane."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from ailora.lab.methods.variants import order_of
from ailora.lab.report.comparison import name_of
from ailora.lab.report.figures.drawing import (
    count_words,
    draw_box,
    draw_curve,
    draw_points,
    legend_above,
    look_of,
)
from ailora.lab.statistics import student_interval

_SIDES = {"left": "left singular vectors (outputs)", "right": "right singular vectors (inputs)"}
_FORGETTING = {
    "cross_entropy": "cross-entropy against\nthe base, nats per token",
    "kl": "KL from the base,\nnats per token",
    "drift": "drift of hidden states,\nrelative",
}

_LINE = 62  # characters of a caption's line
# One inside the other where a layer hardly moved.
_BEFORE = {
    "before": {"marker": "o", "markersize": 7, "markerfacecolor": "none", "color": "#555555"},
    "after": {"marker": "D", "markersize": 3, "color": "#0072B2"},
}


def update_norms(table: pd.DataFrame) -> Figure:
    """||dW||_F of q and v: boxes over layers and seeds; a row per method, a column per task."""
    tasks, methods = list(table["task"].unique()), _methods(table)
    size = (0.6 + 3.3 * len(tasks), 0.9 + 1.15 * len(methods))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(methods), len(tasks), squeeze=False)
    for row, method in zip(grid, methods, strict=True):
        for axes, task in zip(row, tasks, strict=True):
            own = table[(table["task"] == task) & (table["method"] == method)]
            for place, role in enumerate(("q", "v")):
                draw_box(axes, place, 0.7, list(own[own["role"] == role]["norm"]), role)
            axes.set_yticks([0, 1], ["$W^Q$", "$W^V$"])
            axes.set(xlim=(0, None), ylim=(1.6, -0.6))
            axes.set_title(f"{name_of(method)} on {task}", fontsize=9)
    layers, seeds = table["layer"].nunique(), table["seed"].nunique()
    figure.supxlabel(
        rf"$\|\Delta W\|_F$ (one point per layer and seed, n = {layers} x {seeds})", fontsize=9
    )
    return figure


def similarity(table: pd.DataFrame) -> Figure:
    """Similarity phi with full fine-tuning's dW by layer, and what random subspaces have."""
    role, rank = table["role"].iloc[0], table["rank"].iloc[0]
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    for axes, (side, what) in zip(figure.subplots(1, 2, sharey=True), _SIDES.items(), strict=True):
        for method in _methods(table):
            _curve(axes, method, table[table["method"] == method].groupby("layer")[side])
        level, high = table[f"random_{side}"].mean(), table[f"random_{side}_high"].mean()
        axes.axhspan(0, high, color="#dddddd", alpha=0.6, linewidth=0)
        axes.axhline(level, color="#333333", linestyle=(0, (1, 1)), linewidth=1.2, label="chance")
        axes.set_title(what, fontsize=9, fontweight="normal")
        axes.set_xlabel(f"layer (seeds: n = {table['seed'].nunique()})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set_ylim(0, None)  # once both sides, which share it, are drawn
    figure.axes[0].set_ylabel(rf"$\phi(BA, \Delta W_{{full}})$ of $W^{role.upper()}$, r = {rank}")
    legend_above(figure)
    return figure


def loss_by_epoch(table: pd.DataFrame) -> Figure:
    """Figure 3a."""
    return _lines(table, "epoch", "loss", "training loss (mean since the last point)")


def score_by_epoch(table: pd.DataFrame) -> Figure:
    """Figure 3b."""
    return _lines(table, "epoch", "score", f"{_metric(table)} on selection rows")


def loss_by_rank(table: pd.DataFrame) -> Figure:
    """Figure 5a."""
    return _by_rank(_lines(table, "rank", "loss", "last training loss"), table)


def score_by_rank(table: pd.DataFrame) -> Figure:
    """Figure 5b."""
    return _by_rank(_lines(table, "rank", "score", f"test {_metric(table)}"), table)


def forgetting(table: pd.DataFrame) -> Figure:
    """How far the tuned model's predictions are from its base's, by method; the seeds as points."""
    measured = {name: label for name, label in _FORGETTING.items() if name in table}
    methods = _methods(table)
    figure = Figure(figsize=(max(4.6, 0.9 + 2.4 * len(measured)), 1.6 + 0.32 * len(methods)))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axes, (name, label) in zip(grid, measured.items(), strict=True):
        for place, method in enumerate(methods):
            _dots(axes, place, method, table[table["method"] == method][name])
        axes.set_yticks(range(len(methods)), [name_of(method) for method in methods])
        axes.set(xlabel=label, ylim=(len(methods) - 0.5, -0.5))
        axes.locator_params(axis="x", nbins=4)
    figure.suptitle(_of_texts(table), fontsize=8)
    return figure


def scores(table: pd.DataFrame) -> Figure:
    """Test scores, one column per task: mean with its 95 % interval, the seeds as points."""
    tasks = list(table["task"].unique())
    methods = _methods(table)
    figure = Figure(figsize=(0.9 + 2.8 * len(tasks), 1.2 + 0.4 * len(methods)))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(grid, tasks, strict=True):
        own = table[table["task"] == task]
        for place, method in enumerate(methods):
            _dots(axes, place, method, own[own["method"] == method]["score"])
        axes.set_yticks(range(len(methods)), [name_of(method) for method in methods])
        axes.set(xlabel=f"test {own['metric'].iloc[0]}", ylim=(len(methods) - 0.5, -0.5))
        axes.set_title(task, fontsize=9)
    count = table["seed"].nunique()
    figure.suptitle(f"points: seeds (n = {count}); bars: mean and its 95 % interval", fontsize=8)
    return figure


def weight_points(table: pd.DataFrame) -> Figure:
    """W of every layer before and after; a row per method and role, PCA beside t-SNE."""
    methods = _methods(table)
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
    _legend(figure, f"training on {task}, seed {seed}; one point per layer (n = {count})")
    return figure


def factor_points(table: pd.DataFrame) -> Figure:
    """Trained A and B of every layer; one row per factor, PCA beside t-SNE."""
    role, methods = table["role"].iloc[0], sorted(table["group"].unique(), key=order_of)
    figure, grid = _grid([f"${letter}$ of $W^{role.upper()}$" for letter in "AB"], table)
    for letter, row in zip("AB", grid, strict=True):
        for axes, (_, points) in zip(row, _pictures(table[table["matrix"] == letter]), strict=True):
            for method in methods:
                own = points[points["group"] == method]
                draw_points(axes, method, own["x"], own["y"], 4, label=name_of(method))
    count, task, seed = table["layer"].nunique(), table["task"].iloc[0], table["seed"].iloc[0]
    _legend(
        figure,
        f"after training on {task}, seed {seed}; one point per layer (n = {count} per method)",
    )
    return figure


def _lines(table: pd.DataFrame, x: str, y: str, label: str) -> Figure:
    """Mean of the seeds, and a band from the least to the most."""
    tasks = list(table["task"].unique())
    figure = Figure(figsize=(0.6 + 3.6 * len(tasks), 3.3), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        own = table[table["task"] == task]
        for method in _methods(own):
            _curve(axes, method, own[own["method"] == method].groupby(x)[y])
        axes.set(title=task, ylabel=label, xlabel=f"{x} (seeds: n = {_seeds(own)})")
    legend_above(figure)
    return figure


def _by_rank(figure: Figure, table: pd.DataFrame) -> Figure:
    """Ranks are powers of two."""
    for axes in figure.axes:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(table["rank"].unique())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    return figure


def _metric(table: pd.DataFrame) -> str:
    return " or ".join(table["metric"].unique())


def _seeds(table: pd.DataFrame) -> str:
    return count_words(list(table.groupby("method")["seed"].nunique()))


def _curve(axes: Axes, method: str, found: Any) -> None:
    """Mean, least and most of grouped values."""
    rows = found.agg(["mean", "min", "max"])
    draw_curve(axes, method, rows.index, rows["mean"], (rows["min"], rows["max"]))


def _dots(axes: Axes, place: int, method: str, values: pd.Series[float]) -> None:
    draw_points(axes, method, values, [place + 0.2] * len(values), 3)
    interval = student_interval(list(values)) if len(values) > 1 else None
    if interval is not None:
        axes.plot(interval, [place - 0.1] * 2, "-", color=look_of(method).color, linewidth=2)
    draw_points(axes, method, [values.mean()], [place - 0.1], 7)


def _of_texts(table: pd.DataFrame) -> str:
    seeds = table.groupby("method")["seed"].nunique()
    first = table.iloc[0]
    words = f"{first['texts']} test texts of {first['on']}; points: seeds (n = {seeds.max()})"
    if "kl" not in table:
        return f"{words}\n" + fill(f"no tokens compared: {first['reason']}", _LINE)
    return f"{words}; n = {first['positions']:.0f} positions"


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
    legend_above(figure)
    figure.supxlabel(f"{caption}\naxes without unit; in t-SNE distances mean nothing", fontsize=8)


def _methods(table: pd.DataFrame) -> list[str]:
    return sorted(table["method"].unique(), key=order_of)
