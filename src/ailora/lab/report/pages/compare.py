"""The page of one comparison, and the files it was drawn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ailora.files import write_atomic, write_json
from ailora.lab.report import tables
from ailora.lab.report.comparison import STARTS, Comparison, name_of
from ailora.lab.report.figures.drawing import draw
from ailora.lab.report.pages.html import render
from ailora.lab.report.pages.section import FIGURES, environments, failed_rows, section


class Call(NamedTuple):
    """How a comparison was made.

    Attributes:
        command: That made it.
        seconds: Wall-clock time of the last call.
        notes: One line each on how the data was split.
    """

    command: str
    seconds: float
    notes: Sequence[str] = ()


def write_report(comparison: Comparison, call: Call, out: Path) -> Path:
    """Write ``report.html``, ``summary.md``, ``comparison.json`` and ``figures/`` below ``out``.

    Every text of the runs is escaped; the page needs no network and no scripts. Each file is
    written atomically, the page last.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: ``out`` cannot be written.
    """
    header, rows = tables.summary_header(comparison), tables.summary_rows(comparison)
    write_atomic(out / "summary.md", f"{comparison.caveat}\n\n{tables.markdown(header, rows)}")
    write_json(
        out / "comparison.json", {"chosen": comparison.chosen, "runs": list(comparison.runs)}
    )
    svgs = {
        make.__name__: draw(partial(make, comparison), out / "figures" / make.__name__)
        for make in FIGURES
    }
    page = out / "report.html"
    write_atomic(page, render("compare.html.jinja", _content(comparison, call, svgs)))
    return page


def _content(comparison: Comparison, call: Call, svgs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "part": section(comparison, svgs),
        "methods": [name_of(method) for method in comparison.methods],
        "starts": [(name_of(m), STARTS[m]) for m in comparison.methods if m in STARTS],
        "runs": (tables.run_header(comparison), tables.run_rows(list(comparison.runs))),
        "failed": failed_rows(comparison),
        "call": call,
        "data": comparison.runs[0]["data"],
        "environments": environments(comparison.runs),
        "settings": json.dumps(_shared_settings(comparison), indent=2, ensure_ascii=False),
    }


def _shared_settings(comparison: Comparison) -> dict[str, Any]:
    """Settings that all runs share."""
    config = comparison.runs[0]["config"]
    return {name: value for name, value in config.items() if name not in ("method", "seed", "lr")}
