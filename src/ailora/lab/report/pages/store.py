"""The report of a folder of runs: as a page, in Markdown, and as tables for LaTeX."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from ailora.errors import UserError
from ailora.files import write_atomic
from ailora.lab.report.comparison import Comparison
from ailora.lab.report.figures.drawing import Rows, svg_of
from ailora.lab.report.figures.measure import Seen, ranks
from ailora.lab.report.figures.paper import PANELS, TITLES, read_tables
from ailora.lab.report.latex import escaped, latex
from ailora.lab.report.pages.html import inline, render
from ailora.lab.report.pages.section import FIGURES, environments, section
from ailora.lab.report.store import DONE_HEADER, FAILED_HEADER, RUN_HEADER, Part, StoreReport
from ailora.lab.report.tables import markdown

REPEAT = "ailora sweep again.toml --out again"
_OF_WEIGHTS = ("figure1ab", "figure1cd", "figure4a", "figure7", "figure4b", "figure8q", "figure8v")


def write_page(
    report: StoreReport, out: Path, *, figures: Path, refresh: int | None = None
) -> None:
    """Write one self-contained page.

    Args:
        report: What it holds.
        out: The page.
        figures: Folder of figures; panels that `ailora paper` left there as CSV, or ``ailora
            report --measure`` in a folder of each part's name, are drawn anew.
        refresh: Seconds after which a browser reads the page again; None for never.

    Raises:
        UserError: Something cannot be written, or a CSV file is no table.
    """
    content = {
        "report": report,
        "parts": [(part, _section(part), _panels(figures / part.name)) for part in report.parts],
        "sweep": _rank_sweeps(report),
        "panels": _panels(figures),
        "headers": {"done": DONE_HEADER, "failed": FAILED_HEADER, "runs": RUN_HEADER},
        "command": REPEAT,
        "environments": environments(report.results),
        "data": _data(report),
        "made": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "refresh": refresh,
    }
    write_atomic(out, render("store.html.jinja", content))


def as_markdown(report: StoreReport) -> str:
    """The tables of a report, what they allow to be said, and how to repeat it."""
    lines = [f"# {report.title}\n", f"{report.counted}.\n"]
    lines += ["## What was run\n", markdown(DONE_HEADER, report.done)]
    for table in (*report.scores, *report.published):
        lines += [f"## {table.title}\n", table.markdown()]
    lines += [f"- {words}" for words in report.conclusions]
    if report.unfinished:
        lines += ["\n## Not finished\n", markdown(FAILED_HEADER, report.unfinished)]
    lines += ["\n## How to repeat it\n", f"With this in `again.toml`: `{REPEAT}`\n"]
    return "\n".join([*lines, f"```toml\n{report.plan}```\n"])


def as_latex(report: StoreReport) -> str:
    """The tables of scores with the rules of booktabs; what they are of stands above each."""
    tables = [
        f"% {escaped(' '.join(table.title.split()))}\n{table.latex()}"
        for table in (*report.scores, *report.published)
    ]
    if report.unfinished:
        tables.append(f"% not finished\n{latex(FAILED_HEADER, report.unfinished, texts=3)}")
    return "\n".join(tables)


def _section(part: Part) -> dict[str, Any]:
    return section(part.comparison, {make.__name__: _of_part(make, part) for make in FIGURES})


def _of_part(make: Callable[[Comparison], tuple[Figure, Rows]], part: Part) -> str:
    return svg_of(lambda: make(part.comparison)[0], f"{part.name}-{make.__name__}")


def _rank_sweeps(report: StoreReport) -> list[tuple[str, Markup]]:
    """Test score by rank, of every model that has runs of one method at several ranks."""
    reported = [run for part in report.parts for run in part.comparison.runs]
    models = list(dict.fromkeys(run["config"]["model"] for run in reported))
    found = []
    for place, model in enumerate(models):
        runs = [Seen(run, Path()) for run in reported if run["config"]["model"] == model]
        table = ranks([seen for seen in runs if not seen.result["config"]["ranks"]])["figure5b"]
        several = table.groupby(["task", "method"])["rank"].nunique() if len(table) else ()
        if len(several) and max(several) > 1:
            found.append((model, _drawn("figure5b", table, f"ranks{place}")))
    return found


def _panels(folder: Path) -> list[tuple[str, Markup]]:
    """What was measured in the weights and lies in a folder as tables, with its titles."""
    tables = read_tables(folder)
    wanted = [panel for panel in _OF_WEIGHTS if panel in tables and len(tables[panel])]
    try:
        return [(TITLES[one], _drawn(one, tables[one], f"{folder.name}-{one}")) for one in wanted]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: a figure's table is not of this version ({type(error).__name__}: {error}); "
            "measure the figures again"
        ) from error


def _drawn(panel: str, table: pd.DataFrame, name: str) -> Markup:
    return inline(svg_of(lambda: PANELS[panel](table), name))


def _data(report: StoreReport) -> list[tuple[str, str, list[str]]]:
    """Task, hash and notes of every data that was used."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in report.results:
        data = run["data"]
        found[run["config"]["task"], data["fingerprint"]] = list(data.get("notes", ()))
    return [(task, fingerprint, notes) for (task, fingerprint), notes in found.items()]
