"""A comparison as rows of text and as a table for the terminal: scores, and rates searched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from ailora.lab.experiments.wording import counted, number_words
from ailora.lab.report.comparison import (
    Comparison,
    Run,
    Summary,
    method_of,
    name_of,
    score_of,
    summarize,
)
from ailora.lab.report.text_tables import Rows

# Columns that a narrow terminal may do without, the first to go first.
SUMMARY_DROP = ("step 0", "start s", "train s", "params", "lr", "minus LoRA [95 % CI]")


def summary_header(comparison: Comparison) -> list[str]:
    """Column titles of the summary; n stands here if all methods have it, else in the rows."""
    n = _shared_n(comparison)
    score = f"{comparison.metric_label} ({'n' if n is None else f'n = {n}'})"
    header = ["method", score, "minus LoRA [95 % CI]"]
    return [*header, "lr", "params", "start s", "train s", "step 0"]


def _shared_n(comparison: Comparison) -> int | None:
    counts = {len(comparison.runs_of(method)) for method in comparison.methods}
    return counts.pop() if len(counts) == 1 else None


def summary_rows(comparison: Comparison) -> Rows:
    """One row per method: score, difference to LoRA, rate, parameters, seconds, step 0."""
    with_n = _shared_n(comparison) is None
    return [
        _summary_row(summary, comparison.runs_of(summary.method), with_n)
        for summary in summarize(comparison)
    ]


def _summary_row(summary: Summary, runs: list[Run], with_n: bool) -> list[str]:
    parameters = runs[0]["parameters"]
    return [
        name_of(summary.method),
        summary.score + (f" ({summary.spread.n})" if with_n else ""),
        summary.difference,
        number_words(summary.rate),
        f"{parameters['adapter']:,} + {parameters['head']:,}",
        f"{fmean(run['seconds']['init'] for run in runs):.2f}",
        f"{fmean(run['seconds']['train'] for run in runs):.1f}",
        f"{max(run['step0_deviation'] for run in runs):.2g}",
    ]


def search_rows(comparison: Comparison) -> tuple[list[str], Rows]:
    """Mean selection score of each method at each rate.

    The chosen rate is marked, and so is a mean that lacks some of the seeds.
    """
    header = ["method", *(number_words(rate) for rate in comparison.rates)]
    scores: dict[tuple[str, float], list[float]] = {}
    for run in comparison.searched:
        key = (method_of(run), run["config"]["lr"])
        scores.setdefault(key, []).append(score_of(run, "selection"))
    seeds = len({run["config"]["seed"] for run in comparison.searched})
    return header, [_search_row(comparison, method, scores, seeds) for method in comparison.methods]


def _search_row(
    comparison: Comparison,
    method: str,
    found: Mapping[tuple[str, float], Sequence[float]],
    seeds: int,
) -> list[str]:
    chosen = comparison.runs_of(method)[0]["config"]["lr"]
    row = [name_of(method)]
    for rate in comparison.rates:
        scores = found.get((method, rate), ())
        mark = "" if len(scores) == seeds else f" ({len(scores)} of {counted(seeds, 'seed')})"
        mark += " *" if rate == chosen else ""
        row.append(f"{fmean(scores):.4f}{mark}" if scores else _without(comparison, method, rate))
    return row


def _without(comparison: Comparison, method: str, rate: float) -> str:
    failed = [(method_of(run), run["config"]["lr"]) for run in comparison.failed]
    return "failed" if (method, rate) in failed else "-"


def summary_table(comparison: Comparison) -> Table:
    """The summary for the terminal."""
    # Text, since rich would read a path such as data/[old]/x.csv as markup.
    table = Table(title=Text(comparison.title))
    for index, title in enumerate(summary_header(comparison)):
        table.add_column(_on_two_lines(title), justify="left" if index == 0 else "right")
    for row in summary_rows(comparison):
        table.add_row(*map(_on_two_lines, row))
    table.caption = Text(" ".join(comparison.notes))
    table.caption_justify = "left"
    return table


def _on_two_lines(cell: str) -> Text:
    """Broken before its second part, so that the table fits 100 columns."""
    return Text(re.sub(r" (?=[\[(]|\+ |s$)", "\n", cell))
