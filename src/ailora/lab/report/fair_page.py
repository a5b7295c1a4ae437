"""The page of a fair comparison, its Markdown, and its tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from ailora.files import write_atomic
from ailora.lab.experiments.fair import Protocol
from ailora.lab.report.fair import RATE_HEADER, SCORE_HEADER, FairPart
from ailora.lab.report.fair_plan import PLAN_HEADER, Plan
from ailora.lab.report.figures.drawing import draw
from ailora.lab.report.figures.rate_figure import score_by_rate
from ailora.lab.report.text_tables import Rows, markdown

# Columns that a narrow terminal may do without, the first to go first.
SCORE_DROP = ("95 %, seeds", "could see", "95 %, seeds and rows", "p (Holm)", "minus baseline")
RATE_DROP = ("tried", "at half the rate", "at twice the rate", "within a point")


def write_fair(
    parts: Sequence[FairPart], protocol: Protocol, out: Path, *, plan: Plan | None, command: str
) -> Path:
    """Write ``report.html``, ``summary.md`` and ``figures/`` below a folder, the page last.

    Args:
        parts: What the page holds; every text in it is escaped.
        protocol: What was compared.
        out: The folder.
        plan: What it was to cost; None where nothing was left to do.
        command: The command that made it.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: ``out`` cannot be written.
    """
    drawn = [_picture(part, out / "figures", place) for place, part in enumerate(parts)]
    write_atomic(out / "summary.md", as_markdown(parts, protocol))
    env = Environment(
        loader=PackageLoader("ailora.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = out / "report.html"
    content = {
        "parts": list(zip(parts, drawn, strict=True)),
        "protocol": protocol,
        "words": how(protocol),
        "headers": {"scores": SCORE_HEADER, "rates": RATE_HEADER, "plan": PLAN_HEADER},
        "plan": plan,
        "command": command,
    }
    write_atomic(page, env.get_template("fair.html.jinja").render(content))
    return page


def how(protocol: Protocol) -> str:
    """How the rates were chosen and the scores made, in words."""
    choose, report = (", ".join(map(str, seeds)) for seeds in (protocol.choose, protocol.report))
    words = (
        f"Each method's rate was searched a quarter of a decade at a time and chosen by its mean "
        f"score on the selection split (seeds {choose}), then scored on the test split with "
        f"other seeds ({report}), which chose nothing."
    )
    return words + " Rates were halved between the choosing seeds." * protocol.halving


def as_markdown(parts: Sequence[FairPart], protocol: Protocol) -> str:
    """The answer and the tables of each part."""
    lines = [f"# A fair comparison\n\n{how(protocol)}\n"]
    for part in parts:
        lines += [f"## {part.title}\n", *(f"{words}\n" for words in part.advice)]
        lines += [markdown(SCORE_HEADER, part.score_rows), markdown(RATE_HEADER, part.rate_rows)]
        lines += [f"- {note}" for note in part.notes]
    return "\n".join(lines) + "\n"


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


def _picture(part: FairPart, folder: Path, place: int) -> Markup:
    if not part.curves:
        return Markup()
    name = f"score_by_rate{place or ''}"
    svg = draw(partial(score_by_rate, part), folder / name, ids=name)
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 - matplotlib escapes the texts in it
