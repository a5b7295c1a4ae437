"""The figures of a comparison: loss and score along the run, and how far weights moved."""

from __future__ import annotations

from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ailora.lab.report.causes import causes_of
from ailora.lab.report.comparison import Comparison, Run, listed, name_of, watched_of, words_of
from ailora.lab.report.figures.drawing import (
    ROLE_LOOKS,
    Rows,
    count_words,
    draw_box,
    draw_curve,
    legend_above,
)

_CAUSE_COLORS = {"rate": "#0072B2", "size": "#E69F00", "direction": "#009E73", "all": "#333333"}
_LOG_FROM = 100  # largest norm over smallest from which a linear axis hides the small ones


def training_loss(comparison: Comparison) -> tuple[Figure, Rows]:
    """Mean training loss since the last point: mean of the seeds, band from least to most."""
    return _along_the_run(comparison, "loss", "training loss (mean since the last point)")


def selection_score(comparison: Comparison) -> tuple[Figure, Rows]:
    """Headline score on selection rows: mean of the seeds, band from least to most."""
    key = watched_of(comparison.runs[0])
    return _along_the_run(comparison, key, f"{words_of(comparison.runs[0])} on selection rows")


def update_norms(comparison: Comparison) -> tuple[Figure, Rows]:
    """||dW||_F of every adapted weight after training, by method and role."""
    # Methods that change whole models have no such list of their weights.
    methods = [m for m in comparison.methods if m not in without_norms(comparison)]
    trained = {u["role"] for run in comparison.runs for u in run["updates"]}
    roles = [role for role in ROLE_LOOKS if role in trained]
    tall = 1.1 + 0.3 * max(len(methods) * len(roles), 2)
    figure = Figure(figsize=(4.6, tall), layout="constrained")
    axes = figure.subplots()
    rows: Rows = [["method", "seed", "name", "role", "norm", "relative"]]
    height = 0.8 / max(len(roles), 1)
    for place, method in enumerate(methods):
        runs = comparison.runs_of(method)
        for offset, role in enumerate(roles):
            y = place + (offset - (len(roles) - 1) / 2) * height
            draw_box(axes, y, 0.85 * height, _norms(runs, role), role)
        rows += [
            [method, run["config"]["seed"], u["name"], u["role"], u["norm"], u["relative"]]
            for run in runs
            for u in run["updates"]
        ]
    axes.set_yticks(range(len(methods)), [name_of(method) for method in methods])
    axes.set(xlabel=r"$\|\Delta W\|_F$ after training", ylim=(max(len(methods), 1) - 0.5, -0.5))
    _scale(axes, [row[4] for row in rows[1:]])
    for role in roles:
        color, marker = ROLE_LOOKS[role]
        count = count_words([len(_norms(comparison.runs_of(method), role)) for method in methods])
        label = f"$W^{role.upper()}$ (n = {count} per method)"
        axes.plot([], [], marker, color=color, markersize=5, label=label)
    legend_above(figure)
    return figure, rows


def causes(comparison: Comparison) -> tuple[Figure, Rows]:
    """What each step from LoRA to a method changes in the test score, seed by seed."""
    found = causes_of(comparison)
    figure = Figure(figsize=(6.4, 1.0 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    rows: Rows = [["method", "cause", "ours", "other", "seed", "difference"]]
    for place, cause in enumerate(found):
        color, values = _CAUSE_COLORS[cause.what], list(cause.by_seed.values())
        axes.plot(values, [place + 0.18] * len(values), "o", color=color, markersize=3)
        if cause.paired.student is not None:
            axes.plot(cause.paired.student, [place - 0.08] * 2, "-", color=color, linewidth=2)
        if cause.paired.difference is not None:
            axes.plot(cause.paired.difference, place - 0.08, "D", color=color, markersize=6)
        if cause.method != found[place - 1].method and place:
            axes.axhline(place - 0.5, color="#bbbbbb", linewidth=0.8)
        rows += [
            [cause.method, cause.what, cause.ours, cause.other, seed, value]
            for seed, value in cause.by_seed.items()
        ]
    axes.axvline(0, color="#333333", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(found)), [f"{name_of(c.method)}: {c.what}" for c in found])
    count = count_words([len(cause.by_seed) for cause in found])
    label = f"difference in test {comparison.metric_label} (seeds: n = {count})"
    axes.set(xlabel=label, ylim=(len(found) - 0.5, -0.5))
    return figure, rows


def without_norms(comparison: Comparison) -> list[str]:
    """The methods whose runs list no norms."""
    return [
        method
        for method in comparison.methods
        if not any(run["updates"] for run in comparison.runs_of(method))
    ]


def left_out(comparison: Comparison) -> dict[str, str]:
    """What is not in each figure and why, in a sentence; empty where all is."""
    no_norms = without_norms(comparison)
    words = {"update_norms": _sentence(no_norms, "its change is no product B A of factors")}
    keys = {"training_loss": "loss", "selection_score": watched_of(comparison.runs[0])}
    for name, key in keys.items():
        empty = [m for m in comparison.methods if not _by_step(comparison.runs_of(m), key)]
        words[name] = _sentence(empty, "its seeds share no step with a finite value")
    return words


def _sentence(methods: list[str], why: str) -> str:
    return f"Not shown: {listed(map(name_of, methods))} ({why})." if methods else ""


def _along_the_run(comparison: Comparison, key: str, label: str) -> tuple[Figure, Rows]:
    figure = Figure(figsize=(4.2, 3.4), layout="constrained")
    axes = figure.subplots()
    rows: Rows = [["method", "seed", "step", "epoch", key]]
    for method in comparison.methods:
        runs = comparison.runs_of(method)
        _curve(axes, method, runs, key)
        rows += [
            [method, run["config"]["seed"], entry["step"], entry["epoch"], entry.get(key)]
            for run in runs
            for entry in run["history"]
        ]
    count = count_words([len(comparison.runs_of(method)) for method in comparison.methods])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=f"optimiser step (seeds: n = {count})", ylabel=label)
    beyond = legend_above(figure) - 2  # rows beyond the usual two
    figure.set_figheight(3.4 + 0.17 * max(0, beyond))
    return figure, rows


def _curve(axes: Axes, method: str, runs: list[Run], key: str) -> None:
    by_step = _by_step(runs, key)
    steps = sorted(by_step)
    low, high = ([pick(by_step[step]) for step in steps] for pick in (min, max))
    draw_curve(axes, method, steps, [fmean(by_step[step]) for step in steps], (low, high))


def _by_step(runs: list[Run], key: str) -> dict[int, list[float]]:
    """The values of all seeds, at the steps that all seeds have.

    A mean over fewer seeds, where some stopped early, would jump without any learning.
    """
    by_step: dict[int, list[float]] = {}
    for entry in (entry for run in runs for entry in run["history"]):
        if entry.get(key) is not None:
            by_step.setdefault(entry["step"], []).append(entry[key])
    return {step: values for step, values in by_step.items() if len(values) == len(runs)}


def _norms(runs: list[Run], role: str) -> list[float]:
    return [u["norm"] for run in runs for u in run["updates"] if u["role"] == role]


def _scale(axes: Axes, norms: list[float]) -> None:
    if norms and min(norms) > 0 and max(norms) / min(norms) > _LOG_FROM:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
