"""The page of a fair comparison, its Markdown and LaTeX, and its tables for the terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from ailora.files import write_atomic
from ailora.lab.experiments.fair import Protocol
from ailora.lab.experiments.fair_record import Record
from ailora.lab.experiments.store import State, Store
from ailora.lab.report.fair_parts import fair_parts
from ailora.lab.report.fair_plan import PLAN_HEADER, Plan
from ailora.lab.report.fair_verdict import SCORE_HEADER, FairPart
from ailora.lab.report.figures.drawing import draw, svg_of
from ailora.lab.report.figures.rate_figure import score_by_rate
from ailora.lab.report.markup import filled, inline
from ailora.lab.report.rate_curves import RATE_HEADER
from ailora.lab.report.store_report import states_words
from ailora.lab.report.text_tables import Rows, escaped, latex, markdown

# Columns that a narrow terminal may do without, the first to go first.
SCORE_DROP = ("95 %, seeds", "could see", "95 %, seeds and rows", "p (Holm)", "minus baseline")
RATE_WHOLE = ("method", "best lr", "not told apart", "within a point", "tried")
RATE_DROP = ("tried", "within a point", "at half the rate", "at twice the rate")


@dataclass(frozen=True, kw_only=True)
class FairReport:
    """A fair comparison, done or half done.

    Attributes:
        parts: One per model and task.
        protocol: What was compared.
        states: Number of the folder's runs in each state.
        command: The command that asked for it.
        failed: Runs that failed otherwise than by diverging, and why.
        plan: What it was to cost; None where that is not known.
    """

    parts: Sequence[FairPart]
    protocol: Protocol
    states: Mapping[State, int]
    command: str
    failed: Sequence[str] = ()
    plan: Plan | None = None

    @property
    def counted(self) -> str:
        """How many runs there are, in words."""
        return states_words(self.states) or "no runs"


def fair_report(record: Record, store: Store, plan: Plan | None = None) -> FairReport:
    """What the runs of a folder say of the fair comparison that they were made for.

    Args:
        record: What was asked for.
        store: The folder.
        plan: What it was to cost.
    """
    stored = store.runs()
    return FairReport(
        parts=fair_parts(record.searches(stored), record.protocol, store),
        protocol=record.protocol,
        states=Counter(run.state for run in stored),
        command=record.command,
        failed=[
            f"{run.run_id} failed: {run.failure.reason}; the same command tries it again"
            for run in stored
            if run.failure is not None and run.failure.kind != "diverged"
        ],
        plan=plan,
    )


def write_fair(report: FairReport, out: Path) -> Path:
    """Write ``report.html``, ``summary.md`` and ``figures/`` below a folder, the page last.

    Args:
        report: What the page holds; every text in it is escaped.
        out: The folder.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: ``out`` cannot be written.
    """
    drawn = [_picture(part, place, out / "figures") for place, part in enumerate(report.parts)]
    write_atomic(out / "summary.md", as_markdown(report))
    page = out / "report.html"
    _write(report, page, drawn, made="", refresh=None)
    return page


def write_fair_page(report: FairReport, page: Path, *, refresh: int | None = None) -> None:
    """Write the page alone.

    Args:
        report: What it holds; every text in it is escaped.
        page: The page.
        refresh: Seconds after which a browser reads the page again; None for never.

    Raises:
        UserError: The page cannot be written.
    """
    drawn = [_picture(part, place, None) for place, part in enumerate(report.parts)]
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    _write(report, page, drawn, made=made, refresh=refresh)


def how(protocol: Protocol) -> str:
    """How the rates were chosen and the scores made, in words."""
    choose, report = (
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        for seeds in (protocol.choose, protocol.report)
    )
    words = (
        f"Each method's rate was searched a quarter of a decade at a time and chosen by its mean "
        f"score on the selection split ({choose}), then scored on the test split with other seeds "
        f"({report}), which chose nothing."
    )
    risk = (
        " Rates were halved between the choosing seeds: where seeds differ by more than a dropped "
        "rate lay below the chosen one, the better rate may be lost."
    )
    return words + risk * protocol.halving


def as_markdown(report: FairReport) -> str:
    """The answer and the tables of each part."""
    lines = [f"# A fair comparison\n\n{how(report.protocol)}\n"]
    for part in report.parts:
        lines += [f"## {part.title}\n", *(f"{words}\n" for words in part.advice)]
        tables = ((SCORE_HEADER, part.score_rows), (RATE_HEADER, part.rate_rows))
        lines += [markdown(header, rows) for header, rows in tables if rows]
        lines += [f"- {note}" for note in part.notes]
    lines += [f"- {words}" for words in report.failed]
    return "\n".join(lines) + "\n"


def as_latex(report: FairReport) -> str:
    """The tables of each part with the rules of booktabs; a comment above each has its title."""
    return "\n".join(
        f"% {escaped(part.title)}: {what}\n{latex(header, rows)}"
        for part in report.parts
        for what, header, rows in (
            ("best to best", SCORE_HEADER, part.score_rows),
            ("learning rates", RATE_HEADER, part.rate_rows),
        )
    )


def score_table(part: FairPart) -> Table:
    """Best to best, for the terminal."""
    return _table(f"{part.title}: {part.metric} on the test split", SCORE_HEADER, part.score_rows)


def rate_table(part: FairPart) -> Table:
    """Rates, for the terminal."""
    return _table("learning rates, by selection scores", RATE_HEADER, part.rate_rows)


def plan_table(plan: Plan) -> Table:
    """The plan, for the terminal."""
    table = _table("plan", PLAN_HEADER, plan.rows())
    table.caption = Text(plan.notes)
    table.caption_justify = "left"
    return table


def _table(title: str, header: Sequence[str], rows: Rows) -> Table:
    # Text, since rich would read brackets as markup.
    table = Table(title=Text(title), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 or name == "verdict" else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _write(
    report: FairReport, page: Path, drawn: Sequence[Markup], *, made: str, refresh: int | None
) -> None:
    content: dict[str, Any] = {
        "report": report,
        "parts": list(zip(report.parts, drawn, strict=True)),
        "words": how(report.protocol),
        "headers": {"scores": SCORE_HEADER, "rates": RATE_HEADER, "plan": PLAN_HEADER},
        "made": made,
        "refresh": refresh,
    }
    write_atomic(page, filled("fair.html.jinja", content))


def _picture(part: FairPart, place: int, folder: Path | None) -> Markup:
    """Score by rate, also written into a folder if there is one."""
    if not part.curves:
        return Markup()
    name = f"score_by_rate{place or ''}"
    shown = partial(score_by_rate, part)
    svg = draw(shown, folder / name, ids=name) if folder else svg_of(lambda: shown()[0], name)
    return inline(svg)
