"""One comparison as a part of a page: its scores, its search, its curves and its norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ailora.lab.report import figures, tables
from ailora.lab.report.comparison import Comparison, Run, method_of, name_of
from ailora.lab.report.pages.html import inline
from ailora.lab.report.statistics import summarize

FIGURES = (figures.training_loss, figures.selection_score, figures.update_norms)


def section(comparison: Comparison, svgs: Mapping[str, str]) -> dict[str, Any]:
    """What the template needs of a comparison, with `FIGURES` drawn, by their names."""
    first = comparison.runs[0]
    return {
        "caveat": comparison.caveat,
        "chosen": comparison.chosen,
        "config": first["config"],
        "data": first["data"],
        "majority": first["majority"],
        "metric": comparison.metric,
        "seeds": comparison.seeds,
        "summary": (tables.summary_header(comparison), tables.summary_rows(comparison)),
        "verdicts": [(name_of(s.method), s.verdict) for s in summarize(comparison) if s.verdict],
        "search": tables.search_rows(comparison) if comparison.chosen == "selected" else None,
        "svgs": {name: inline(svg) for name, svg in svgs.items()},
    }


def failed_rows(comparison: Comparison) -> list[list[str]]:
    """Method, rate, seed and reason of the runs that did not finish."""
    return [
        [
            name_of(method_of(run)),
            f"{run['config']['lr']:g}",
            str(run["config"]["seed"]),
            str(run["error"]),
        ]
        for run in comparison.failed
    ]


def environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The machines and versions, each once: seconds of different ones do not compare."""
    different: list[dict[str, Any]] = []
    for run in runs:
        if run["environment"] not in different:
            different.append(run["environment"])
    return different
