"""Score over learning rate: a line for each setting, its band over seeds, its best marked."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from ailora.lab.report.fair_verdict import FairPart
from ailora.lab.report.figures.drawing import Rows, legend_above, look_of


def score_by_rate(part: FairPart) -> tuple[Figure, Rows]:
    """Mean selection score by rate; the band runs from the lowest to the highest seed.

    A rate at which a seed diverged has no mean: the line stops there.
    """
    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    axes = figure.subplots()
    rows: Rows = [["setting", "lr", "mean", "lowest", "highest", "chosen"]]
    shown: set[str] = set()
    for place, curve in enumerate(part.curves):
        color, line, marker = look_of(curve.method)
        if curve.method in shown:  # a variant of a method that has its look already
            color = f"C{place}"
        shown.add(curve.method)
        points = [point for point in curve.points if math.isfinite(point[1])]
        rates, means, low, high = zip(*points, strict=True)
        axes.plot(rates, means, line, color=color, marker=marker, markersize=4, label=curve.label)
        axes.fill_between(rates, low, high, color=color, alpha=0.12, linewidth=0)
        best = rates.index(curve.best)
        axes.plot(curve.best, means[best], marker, color=color, markersize=10)
        rows += [[curve.label, *point, point[0] == curve.best] for point in curve.points]
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel=f"{part.metric} on selection rows")
    legend_above(figure)
    return figure, rows
