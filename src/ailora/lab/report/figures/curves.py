"""Lines by method: along the epochs (figure 3) and along the rank (figure 5)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from ailora.lab.report.comparison import name_of, order_of
from ailora.lab.report.figures.looks import look_of


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


def _lines(table: pd.DataFrame, x: str, y: str, label: str) -> Figure:
    """Mean of the seeds, and a band from the least to the most."""
    tasks = list(table["task"].unique())
    figure = Figure(figsize=(0.6 + 3.6 * len(tasks), 3.3), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        own = table[table["task"] == task]
        for method in sorted(own["method"].unique(), key=order_of):
            _line(axes, own[own["method"] == method], x, y)
        axes.set(title=task, ylabel=label, xlabel=f"{x} (seeds: n = {_seeds(own)})")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _line(axes: Axes, own: pd.DataFrame, x: str, y: str) -> None:
    look, method = look_of(own["method"].iloc[0]), own["method"].iloc[0]
    found = own.groupby(x)[y].agg(["mean", "min", "max"])
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
    counts = table.groupby("method")["seed"].nunique()
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"
