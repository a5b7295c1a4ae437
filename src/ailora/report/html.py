"""One self-contained page, and the files it was drawn from."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ailora.files import write_atomic, write_json
from ailora.report import figures, tables
from ailora.report.comparison import STARTS, Comparison, method_of, name_of
from ailora.report.statistics import summarize


def write_report(comparison: Comparison, out: Path) -> Path:
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
    page = out / "report.html"
    write_atomic(page, _render(comparison, _draw(comparison, out / "figures")))
    return page


def _draw(comparison: Comparison, folder: Path) -> dict[str, Markup]:
    """The figures as SVG elements; matplotlib escapes the texts in them."""
    makers = (figures.training_loss, figures.selection_score, figures.update_norms)
    drawn = {
        make.__name__: figures.draw(partial(make, comparison), folder / make.__name__)
        for make in makers
    }
    return {name: Markup(svg[svg.index("<svg") :]) for name, svg in drawn.items()}  # noqa: S704


def _render(comparison: Comparison, svgs: dict[str, Markup]) -> str:
    env = Environment(
        loader=PackageLoader("ailora", "report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return env.get_template("report.html.jinja").render(_content(comparison), svgs=svgs)


def _content(comparison: Comparison) -> dict[str, Any]:
    first = comparison.runs[0]
    several = comparison.chosen == "selected"
    return {
        "caveat": comparison.caveat,
        "chosen": comparison.chosen,
        "config": first["config"],
        "data": first["data"],
        "majority": first["majority"],
        "metric": comparison.metric,
        "methods": [name_of(method) for method in comparison.methods],
        "starts": [(name_of(m), STARTS[m]) for m in comparison.methods if m in STARTS],
        "seeds": comparison.seeds,
        "summary": (tables.summary_header(comparison), tables.summary_rows(comparison)),
        "verdicts": [(name_of(s.method), s.verdict) for s in summarize(comparison) if s.verdict],
        "search": tables.search_rows(comparison) if several else None,
        "runs": (tables.run_header(comparison), tables.run_rows(list(comparison.runs))),
        "failed": [
            (name_of(method_of(run)), run["config"]["lr"], run["config"]["seed"], run["error"])
            for run in comparison.failed
        ],
        "command": comparison.command,
        "seconds": comparison.seconds,
        "notes": comparison.notes,
        "environments": _environments(comparison),
        "settings": json.dumps(_shared_settings(comparison), indent=2, ensure_ascii=False),
    }


def _environments(comparison: Comparison) -> list[dict[str, Any]]:
    """The machines and versions, each once: seconds of different ones do not compare."""
    different: list[dict[str, Any]] = []
    for run in comparison.runs:
        if run["environment"] not in different:
            different.append(run["environment"])
    return different


def _shared_settings(comparison: Comparison) -> dict[str, Any]:
    """Settings that all runs share."""
    config = comparison.runs[0]["config"]
    return {name: value for name, value in config.items() if name not in ("method", "seed", "lr")}
