"""Figures of what finished runs did to the weights: measured, drawn, and told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ailora.cli.console import along, console
from ailora.errors import UserError

if TYPE_CHECKING:
    from ailora.lab.report.figures.panel_tables import Seen, Tables
    from ailora.lab.training import RunConfig

_MAX_TEXTS = 200  # a figure's intervals come from seeds; more texts would narrow nothing


def measure_and_draw(
    seen: Sequence[Seen], measures: Sequence[str], texts: RunConfig | None, folder: Path
) -> None:
    """Measure finished runs, and draw what was found.

    Args:
        seen: The runs.
        measures: Names in `ailora.lab.report.figures.panel_tables.MEASURES`.
        texts: Whose task's test texts forgetting is measured on; None where it is not.
        folder: Folder of the figures.
    """
    from ailora.lab.report.figures.gallery import draw_panels
    from ailora.lab.report.figures.panel_tables import MEASURES, forgotten

    tables: Tables = {}
    for name in measures:
        tables |= MEASURES[name](seen, along(f"measuring {name.replace('_', ' ')}"))
    if texts is not None:
        found = _texts(texts)
        tables |= forgotten(seen, found, texts.task, along(f"on {len(found)} texts"))
    for path in draw_panels(tables, folder):
        say_drawn(path)


def say_drawn(path: Path) -> None:
    """Print where a figure is."""
    others = ".png and .csv" if path.with_suffix(".csv").exists() else ".png"
    console.print(f"figure: {path.resolve()}, {others}", soft_wrap=True, highlight=False)


def _texts(config: RunConfig) -> list[str]:
    """Test sentences of a task.

    Raises:
        UserError: Its rows have no text to classify.
    """
    from ailora.lab.experiments.jobs import Tasks

    rows = Tasks().of(config).test
    if "text" not in rows.column_names:
        raise UserError(f"task {config.task!r} has no sentences to compare on; give sst2 or movies")
    return list(rows["text"][:_MAX_TEXTS])
