"""The page of a report of runs, and the same report in Markdown and as tables for LaTeX."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ailora.errors import UserError
from ailora.files import write_atomic
from ailora.lab.report.causes import CAUSES_HEADER, causes_of, causes_rows, missing_of
from ailora.lab.report.comparison import Comparison, Run, metric_words, name_of, summarize
from ailora.lab.report.figures.comparison_figures import (
    causes,
    left_out,
    selection_score,
    training_loss,
    update_norms,
)
from ailora.lab.report.figures.drawing import draw, svg_of
from ailora.lab.report.figures.gallery import PANELS, TITLES, read_tables
from ailora.lab.report.figures.panel_tables import Seen, ranks
from ailora.lab.report.markup import filled, inline
from ailora.lab.report.store_report import (
    DONE_HEADER,
    FAILED_HEADER,
    RUN_HEADER,
    Part,
    StoreReport,
)
from ailora.lab.report.summary import search_rows, summary_header, summary_rows
from ailora.lab.report.text_tables import escaped, latex, markdown

REPEAT = "ailora sweep again.toml --out again"
_FIGURES = (training_loss, selection_score, update_norms)
_OF_WEIGHTS = ("figure1ab", "figure1cd", "figure4a", "figure7", "figure4b", "figure8q", "figure8v")


def write_page(
    report: StoreReport, out: Path, *, figures: Path, refresh: int | None = None
) -> None:
    """Write a report as one self-contained page, which needs no network and no scripts.

    Args:
        report: What the page holds; every text in it is escaped.
        out: The page.
        figures: Folder of figures; panels that `ailora paper` left there as CSV, or ``ailora
            report --measure`` in a folder of each part's name, are drawn anew.
        refresh: Seconds after which a browser reads the page again; None for never.

    Raises:
        UserError: Something cannot be written, or a CSV file is no table.
    """
    drawn = {part.name: _pictures(part, None) for part in report.parts}
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    _write(report, out, drawn, figures, {"made": made, "refresh": refresh})


def write_comparison(
    report: StoreReport, out: Path, *, command: str = "", seconds: float | None = None
) -> Path:
    """Write ``report.html``, ``summary.md`` and ``figures/`` below a folder, the page last.

    The figures are those of the page, each as SVG, PNG and CSV; where the report has several
    parts, in a folder of each part's name.

    Args:
        report: What the page holds.
        out: The folder.
        command: The command that made the runs.
        seconds: How long it took.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: ``out`` cannot be written.
    """
    figures, several = out / "figures", len(report.parts) > 1
    drawn = {
        part.name: _pictures(part, figures / part.name if several else figures)
        for part in report.parts
    }
    write_atomic(out / "summary.md", as_markdown(report))
    page = out / "report.html"
    _write(report, page, drawn, figures, {"command": command, "seconds": seconds})
    return page


def as_markdown(report: StoreReport) -> str:
    """The tables of a report, what they allow to be said, and how to repeat it."""
    lines = [f"# {report.title}\n", f"{report.counted}.\n"]
    if len(report.parts) != 1:
        lines += ["## What was run\n", markdown(DONE_HEADER, report.done)]
    for part in report.parts:
        rows = markdown(summary_header(part.comparison), summary_rows(part.comparison))
        scored = metric_words(part.comparison.runs[0]["data"])
        said = f"{part.comparison.caveat}{scored and f' Here {scored}.'}"
        lines += [f"## {part.title}\n", f"{said}\n", rows]
        if found := causes_of(part.comparison):
            lines += ["Difference to LoRA by cause:\n", markdown(CAUSES_HEADER, causes_rows(found))]
    for table in (*report.scores, *report.published):
        lines += [f"## {table.title}\n", table.markdown()]
    lines += [f"- {words}" for words in report.conclusions]
    if report.unfinished:
        lines += ["\n## Not finished\n", markdown(FAILED_HEADER, report.unfinished)]
    lines += ["\n## How to repeat it\n", f"With this in `again.toml`: `{REPEAT}`\n"]
    return "\n".join([*lines, f"```toml\n{report.plan}```\n"])


def as_latex(report: StoreReport) -> str:
    """The tables of scores with the rules of booktabs; a comment above each has its title."""
    tables = [
        f"% {escaped(' '.join(table.title.split()))}\n{table.latex()}"
        for table in (*report.scores, *report.published)
    ]
    if report.unfinished:
        tables.append(f"% not finished\n{latex(FAILED_HEADER, report.unfinished, texts=3)}")
    return "\n".join(tables)


def _write(
    report: StoreReport,
    out: Path,
    drawn: Mapping[str, Mapping[str, Markup]],
    figures: Path,
    made: Mapping[str, Any],
) -> None:
    """Fill the template and write the page; ``made`` says when or how it was made."""
    content = {
        "report": report,
        "parts": [
            (part, _section(part.comparison, drawn[part.name]), _panels(figures / part.name))
            for part in report.parts
        ],
        "sweep": _rank_sweeps(report),
        "panels": _panels(figures),
        "headers": {"done": DONE_HEADER, "failed": FAILED_HEADER, "runs": RUN_HEADER},
        "repeat": REPEAT,
        "environments": _environments(report.results),
        "data": _data(report),
        "made": "",
        "refresh": None,
        "command": "",
        "seconds": None,
        **made,
    }
    write_atomic(out, filled("page.html.jinja", content))


def _pictures(part: Part, folder: Path | None) -> dict[str, Markup]:
    """The figures of a part by name, also written into a folder if there is one."""
    found = {}
    for make in (*_FIGURES, *[causes] * bool(causes_of(part.comparison))):
        shown, name = partial(make, part.comparison), make.__name__
        ids = f"{part.name}-{name}"
        svg = draw(shown, folder / name, ids=ids) if folder else svg_of(lambda: shown()[0], ids)  # noqa: B023
        found[name] = inline(svg)
    return found


def _section(comparison: Comparison, svgs: Mapping[str, Markup]) -> dict[str, Any]:
    """What the template shows of a comparison."""
    first = comparison.runs[0]
    return {
        "caveat": comparison.caveat,
        "chosen": comparison.chosen,
        "config": first["config"],
        "data": first["data"],
        "majority": first["majority"],
        "metric": comparison.metric_label,
        "seeds": comparison.seeds,
        "summary": (summary_header(comparison), summary_rows(comparison)),
        "verdicts": [(name_of(s.method), s.verdict) for s in summarize(comparison) if s.verdict],
        "causes": (CAUSES_HEADER, causes_rows(causes_of(comparison))),
        "missing": ",".join(missing_of(comparison)),
        "search": search_rows(comparison) if comparison.chosen == "selected" else None,
        "svgs": svgs,
        "left_out": left_out(comparison),
        "scored": metric_words(first["data"]),
    }


def _rank_sweeps(report: StoreReport) -> list[tuple[str, Markup]]:
    """Test score by rank, for every model that has runs of one method at several ranks."""
    reported = [run for part in report.parts for run in part.comparison.runs]
    models = list(dict.fromkeys(run["config"]["model"] for run in reported))
    found = []
    for place, model in enumerate(models):
        runs = [Seen(run, Path()) for run in reported if run["config"]["model"] == model]
        table = ranks([seen for seen in runs if not seen.result["config"].get("ranks")])["figure5b"]
        several = table.groupby(["task", "method"])["rank"].nunique() if len(table) else ()
        if len(several) and max(several) > 1:
            found.append((model, _drawn("figure5b", table, f"ranks{place}")))
    return found


def _panels(folder: Path) -> list[tuple[str, Markup]]:
    """What was measured in the weights, drawn from the tables in a folder, with titles."""
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


def _environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The machines and versions, each once: seconds of different ones do not compare."""
    different: list[dict[str, Any]] = []
    for run in runs:
        if run["environment"] not in different:
            different.append(run["environment"])
    return different


def _data(report: StoreReport) -> list[tuple[str, str, list[str]]]:
    """Task, fingerprint and notes of all data that was used; the labels are the first note."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for run in report.results:
        data = run["data"]
        labels = [f"labels: {', '.join(data['labels'])}"] if data["labels"] else []
        notes = found.setdefault((run["config"]["task"], data["fingerprint"]), {})
        notes.update(dict.fromkeys([*labels, *data.get("notes", ())]))
    return [(task, fingerprint, list(notes)) for (task, fingerprint), notes in found.items()]
