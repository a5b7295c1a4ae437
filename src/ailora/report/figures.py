"""The figures of a comparison, each with its data beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ailora.files import write_atomic
from ailora.report.comparison import Comparison, Run, name_of

# Okabe and Ito's palette, told apart by people who see colours differently; one look a method.
LOOKS: dict[str, tuple[str, str, str]] = {
    "lora": ("#666666", "-", "o"),
    "pissa": ("#E69F00", "--", "s"),
    "milora": ("#009E73", "-.", "^"),
    "ailora": ("#0072B2", "-", "D"),
    "reailora": ("#CC79A7", ":", "v"),
}
OTHER_LOOK = ("#D55E00", "-", "x")
ROLE_COLORS = {"q": "#0072B2", "k": "#56B4E9", "v": "#D55E00", "o": "#F0E442"}

Rows = list[list[Any]]


def training_loss(comparison: Comparison) -> tuple[Figure, Rows]:
    """Mean training loss since the last point: mean of the seeds, band min to max."""
    return _along_the_run(comparison, "loss", "training loss (mean since the last point)")


def selection_score(comparison: Comparison) -> tuple[Figure, Rows]:
    """Headline score on selection rows: mean of the seeds, band min to max."""
    return _along_the_run(comparison, comparison.metric, f"{comparison.metric} on selection rows")


def update_norms(comparison: Comparison) -> tuple[Figure, Rows]:
    """||dW||_F of every adapted weight after training, by method and role."""
    methods = comparison.methods
    roles = sorted({u["role"] for run in comparison.runs for u in run["updates"]}, key="qkvo".find)
    figure = Figure(figsize=(4.6, 1.1 + 0.3 * len(methods) * len(roles)), layout="constrained")
    axes = figure.subplots()
    rows: Rows = [["method", "seed", "name", "role", "norm", "relative"]]
    height = 0.8 / max(len(roles), 1)
    for place, method in enumerate(methods):
        runs = comparison.runs_of(method)
        for offset, role in enumerate(roles):
            y = place + (offset - (len(roles) - 1) / 2) * height
            _box(axes, y, height, _norms(runs, role), ROLE_COLORS[role])
        rows += [
            [method, run["config"]["seed"], u["name"], u["role"], u["norm"], u["relative"]]
            for run in runs
            for u in run["updates"]
        ]
    axes.set_yticks(range(len(methods)), [name_of(method) for method in methods])
    axes.set(xlabel="||ΔW||_F after training", xlim=(0, None), ylim=(len(methods) - 0.5, -0.5))
    count = len(_norms(comparison.runs_of(methods[0]), roles[0])) if roles else 0
    for role in roles:
        label = f"$W^{role.upper()}$ ({count} weights a method)"
        axes.plot([], [], "s", color=ROLE_COLORS[role], label=label)
    figure.legend(loc="outside upper center", ncols=len(roles))
    return figure, rows


def draw(
    make: Callable[[Comparison], tuple[Figure, Rows]], comparison: Comparison, path: Path
) -> str:
    """Draw a figure in the project's style; write .svg, .png and .csv; return the SVG."""
    sheet = resources.files("ailora.report") / "ailora.mplstyle"
    # A fixed salt makes the ids repeatable; one a figure keeps two on a page from clashing.
    salt = mpl.rc_context({"svg.hashsalt": path.name})
    with resources.as_file(sheet) as file, style.context(file), salt:
        figure, rows = make(comparison)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png")
    write_atomic(path.with_suffix(".svg"), svg.getvalue())
    write_atomic(path.with_suffix(".png"), png.getvalue())
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    write_atomic(path.with_suffix(".csv"), table.getvalue())
    return svg.getvalue()


def _along_the_run(comparison: Comparison, key: str, label: str) -> tuple[Figure, Rows]:
    figure = Figure(figsize=(4.2, 3.4), layout="constrained")
    axes = figure.subplots()
    rows: Rows = [["method", "seed", "step", "epoch", key]]
    for method in comparison.methods:
        runs = comparison.runs_of(method)
        _curve(axes, method, runs, key)
        rows += [
            [method, run["config"]["seed"], entry["step"], entry["epoch"], entry[key]]
            for run in runs
            for entry in run["history"]
        ]
    axes.set(xlabel=f"optimiser step (seeds: n = {len(comparison.seeds)})", ylabel=label)
    figure.legend(loc="outside upper center", ncols=3)
    return figure, rows


def _curve(axes: Axes, method: str, runs: list[Run], key: str) -> None:
    color, line, marker = LOOKS.get(method, OTHER_LOOK)
    by_step: dict[int, list[float]] = {}
    for entry in (entry for run in runs for entry in run["history"]):
        if entry[key] is not None:
            by_step.setdefault(entry["step"], []).append(entry[key])
    steps = sorted(by_step)
    mean = [np.mean(by_step[step]) for step in steps]
    low, high = ([pick(by_step[step]) for step in steps] for pick in (min, max))
    name = name_of(method)
    axes.plot(steps, mean, line, color=color, marker=marker, markersize=4, label=name)
    axes.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)


def _norms(runs: list[Run], role: str) -> list[float]:
    return [u["norm"] for run in runs for u in run["updates"] if u["role"] == role]


def _box(axes: Axes, y: float, height: float, values: list[float], color: str) -> None:
    if not values:
        return
    box = axes.boxplot(
        [values],
        positions=[y],
        widths=0.85 * height,
        orientation="horizontal",
        patch_artist=True,
        showfliers=False,
    )
    box["boxes"][0].set(facecolor=color, alpha=0.45)
    box["medians"][0].set(color="black")
    spread = np.linspace(-0.2, 0.2, len(values)) * height
    axes.plot(values, y + spread, ".", color=color, markersize=3)
