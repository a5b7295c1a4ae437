"""Measured scores beside published ones: the table for the terminal, Markdown and LaTeX.

Published and measured scores never share a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from ailora.lab.report.comparison import Run, name_of
from ailora.lab.report.published import PaperTable
from ailora.lab.report.score_lines import Line, Measured, Setting, baselines_of, lines_of
from ailora.lab.report.text_tables import Rows, latex, markdown

_NONE = "-"


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """A table of published and of measured scores, as texts.

    Attributes:
        title: Title of the table.
        header: Titles of the columns: score and method, then the paper's, then those measured.
        rows: Cells of the rows.
    """

    title: str
    header: list[str]
    rows: Rows

    def rich(self) -> Table:
        """The table for the terminal."""
        # Text, since rich would read brackets as markup.
        table = Table(title=Text(self.title), title_justify="left")
        for index, title in enumerate(self.header):
            justify: Literal["left", "right"] = "left" if index < 2 else "right"
            table.add_column(Text(title), justify=justify, overflow="fold")
        shown = ""
        for label, *cells in self.rows:
            if label != shown:
                table.add_section()
            table.add_row(*map(Text, ("" if label == shown else label, *cells)))
            shown = label
        return table

    def markdown(self) -> str:
        """The table in Markdown."""
        return markdown(self.header, self.rows)

    def latex(self) -> str:
        """The table for LaTeX with booktabs."""
        return latex(self.header, self.rows, texts=2)


def score_table(title: str, table: PaperTable | None, runs: Sequence[Run]) -> ScoreTable:
    """Lay measured scores beside the published ones.

    Args:
        title: Title of the table.
        table: What the paper reports; None for what it only draws.
        runs: Contents of finished runs' result.json.
    """
    return laid_out(title, lines_of(table, runs))


def laid_out(title: str, lines: Sequence[Line]) -> ScoreTable:
    """The table of given lines."""
    baselines = baselines_of(list(dict.fromkeys(line.setting for line in lines)))
    against = next(iter(baselines.values()), None)
    papers = list(dict.fromkeys(model for line in lines for model in line.published))
    models = list(dict.fromkeys(model for line in lines for model in line.measured))
    counted = any(line.published_parameters for line in lines)
    return ScoreTable(
        title=title,
        header=_header(papers, models, against, counted),
        rows=[_row(line, papers, models, counted) for line in lines],
    )


def _header(
    papers: Sequence[str], models: Sequence[str], against: Setting | None, counted: bool
) -> list[str]:
    minus = f"minus {name_of(against.method)} [95 % CI]" if against else "minus baseline"
    header = ["score, %", "method"]
    for model in papers:
        header += [f"paper, {model}", *[f"paper, {model}: parameters, M"] * counted]
    for model in models:
        header += [f"measured, {model}: mean ± s.d.", "n", f"measured, {model}: {minus}", "lr"]
        header += ["measured parameters, M"] * counted
    return header


def _row(
    line: Line,
    papers: Sequence[str],
    models: Sequence[str],
    counted: bool,
) -> list[str]:
    row = [f"{line.column.label} ({line.column.metric})", line.setting.label]
    for model in papers:
        parameters = line.published_parameters.get(model)
        row.append(_printed(line.published.get(model)))
        row += [_NONE if parameters is None else f"{parameters:.2f}"] * counted
    for model in models:
        found = line.measured.get(model)
        if found is None:
            row += [_NONE] * (4 + counted)
            continue
        row += [_mean(found), str(found.spread.n), _difference(found), f"{found.rate:g}"]
        row += [f"{found.parameters:.2f}"] * counted
    return row


def _printed(value: float | None) -> str:
    """A score as the paper prints it: with one decimal, or two in Table 6."""
    return _NONE if value is None else f"{value:g}" if value * 10 % 1 else f"{value:.1f}"


def _mean(found: Measured) -> str:
    spread = found.spread
    return f"{spread.mean:.2f}" + ("" if spread.sd is None else f" ± {spread.sd:.2f}")


def _difference(found: Measured) -> str:
    against = found.paired
    if against is None or against.difference is None:
        return _NONE
    words = f"{against.difference:+.2f}"
    if against.student is not None:
        words += f" [{against.student[0]:+.2f}, {against.student[1]:+.2f}]"
    return words + ("" if against.n == found.spread.n else f" (n = {against.n})")
