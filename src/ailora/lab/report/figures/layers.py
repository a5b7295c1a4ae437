"""By layer and role: norms of the change (figure 1 c, d), similarity (figures 4a and 7)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ailora.lab.report.comparison import name_of, order_of
from ailora.lab.report.figures.looks import ROLE_LOOKS, look_of

_SIDES = {"left": "left singular vectors (outputs)", "right": "right singular vectors (inputs)"}


def update_norms(table: pd.DataFrame) -> Figure:
    """||dW||_F of q and v: a box over layers and seeds, a row a method, a column a task."""
    tasks, methods = list(table["task"].unique()), _methods(table)
    size = (0.6 + 3.3 * len(tasks), 0.9 + 1.15 * len(methods))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(methods), len(tasks), squeeze=False)
    for row, method in zip(grid, methods, strict=True):
        for axes, task in zip(row, tasks, strict=True):
            own = table[(table["task"] == task) & (table["method"] == method)]
            for place, role in enumerate(("q", "v")):
                _box(axes, place, own[own["role"] == role]["norm"], ROLE_LOOKS[role])
            axes.set_yticks([0, 1], ["$W^Q$", "$W^V$"])
            axes.set(xlim=(0, None), ylim=(1.6, -0.6))
            axes.set_title(f"{name_of(method)} on {task}", fontsize=9)
    layers, seeds = table["layer"].nunique(), table["seed"].nunique()
    figure.supxlabel(
        rf"$\|\Delta W\|_F$ (a point a layer and seed, n = {layers} x {seeds})", fontsize=9
    )
    return figure


def similarity(table: pd.DataFrame) -> Figure:
    """Similarity phi with full fine-tuning's dW by layer, and what random subspaces have."""
    role, rank = table["role"].iloc[0], table["rank"].iloc[0]
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    for axes, (side, what) in zip(figure.subplots(1, 2, sharey=True), _SIDES.items(), strict=True):
        for method in _methods(table):
            _by_layer(axes, table[table["method"] == method], side)
        level, high = table[f"random_{side}"].mean(), table[f"random_{side}_high"].mean()
        axes.axhspan(0, high, color="#dddddd", alpha=0.6, linewidth=0)
        axes.axhline(level, color="#333333", linestyle=(0, (1, 1)), linewidth=1.2, label="chance")
        axes.set_title(what, fontsize=9, fontweight="normal")
        axes.set_xlabel(f"layer (seeds: n = {table['seed'].nunique()})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set_ylim(0, None)  # once both sides, which share it, are drawn
    figure.axes[0].set_ylabel(rf"$\phi(BA, \Delta W_{{full}})$ of $W^{role.upper()}$, r = {rank}")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5)
    return figure


def _by_layer(axes: Axes, own: pd.DataFrame, side: str) -> None:
    """Mean of the seeds, and a band from the least to the most."""
    method = own["method"].iloc[0]
    look, found = look_of(method), own.groupby("layer")[side].agg(["mean", "min", "max"])
    axes.plot(
        found.index,
        found["mean"],
        look.line,
        color=look.color,
        marker=look.marker,
        markersize=4,
        label=name_of(method),
    )
    axes.fill_between(
        found.index, found["min"], found["max"], color=look.color, alpha=0.12, linewidth=0
    )


def _box(axes: Axes, place: int, values: pd.Series[float], look: tuple[str, str]) -> None:
    color, marker = look
    box = axes.boxplot(
        [values], positions=[place], widths=0.7, orientation="horizontal", patch_artist=True,
        showfliers=False,
    )  # fmt: skip
    box["boxes"][0].set(facecolor=color, alpha=0.35)
    box["medians"][0].set(color="black")
    spread = np.linspace(-0.25, 0.25, len(values))
    axes.plot(values, place + spread, marker, color=color, markersize=2.2)


def _methods(table: pd.DataFrame) -> list[str]:
    return sorted(table["method"].unique(), key=order_of)
