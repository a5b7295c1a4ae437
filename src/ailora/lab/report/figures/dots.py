"""A value a method: forgetting (figure 4b), and AILoRA beside its reverse (figure 6)."""

from __future__ import annotations

from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ailora.lab.report.comparison import name_of, order_of
from ailora.lab.report.figures.looks import look_of
from ailora.lab.statistics import student_interval

_FORGETTING = {
    "cross_entropy": "cross-entropy against\nthe base, nats a token",
    "kl": "KL from the base,\nnats a token",
    "drift": "drift of hidden states,\nrelative",
}

_LINE = 62  # signs of a caption


def forgetting(table: pd.DataFrame) -> Figure:
    """What the tuned model says otherwise than its base, by method; the seeds as points."""
    measured = {name: label for name, label in _FORGETTING.items() if name in table}
    methods = sorted(table["method"].unique(), key=order_of)
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
    """Test scores, a column a task: mean with its 95 % interval, the seeds as points."""
    tasks = list(table["task"].unique())
    methods = sorted(table["method"].unique(), key=order_of)
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


def _dots(axes: Axes, place: int, method: str, values: pd.Series[float]) -> None:
    look, mean = look_of(method), values.mean()
    axes.plot(values, [place + 0.2] * len(values), look.marker, color=look.color, markersize=3)
    interval = student_interval(list(values)) if len(values) > 1 else None
    if interval is not None:
        axes.plot(interval, [place - 0.1] * 2, "-", color=look.color, linewidth=2)
    axes.plot(mean, place - 0.1, look.marker, color=look.color, markersize=7)


def _of_texts(table: pd.DataFrame) -> str:
    seeds = table.groupby("method")["seed"].nunique()
    first = table.iloc[0]
    words = f"{first['texts']} test texts of {first['on']}; points: seeds (n = {seeds.max()})"
    if "kl" not in table:
        return f"{words}\n" + fill(f"no tokens compared: {first['reason']}", _LINE)
    return f"{words}; n = {first['positions']:.0f} positions"
