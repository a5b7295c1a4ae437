"""The paper's panels, each drawn from its table alone: of runs just measured, or of a CSV file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ailora.errors import UserError
from ailora.lab.report.figures import curves, dots, layers, points
from ailora.lab.report.figures.drawing import Rows, draw
from ailora.lab.report.figures.schematic import schematic

PANELS: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "figure1ab": points.weight_points,
    "figure1cd": layers.update_norms,
    "figure3a": curves.loss_by_epoch,
    "figure3b": curves.score_by_epoch,
    "figure4a": layers.similarity,
    "figure4b": dots.forgetting,
    "figure5a": curves.loss_by_rank,
    "figure5b": curves.score_by_rank,
    "figure6": dots.scores,
    "figure7": layers.similarity,
    "figure8q": points.factor_points,
    "figure8v": points.factor_points,
}

TITLES: dict[str, str] = {
    "figure1ab": "W^Q and W^V of each layer before and after training, as points",
    "figure1cd": "How far W^Q and W^V moved, by layer",
    "figure3a": "Training loss by epoch",
    "figure3b": "Selection score by epoch",
    "figure4a": "W^Q: how much of each method's update lies in full fine-tuning's",
    "figure4b": "What the tuned models say otherwise than their base",
    "figure5a": "Training loss by rank",
    "figure5b": "Test score by rank",
    "figure6": "AILoRA and its reverse",
    "figure7": "W^V: how much of each method's update lies in full fine-tuning's",
    "figure8q": "The trained A and B of W^Q by method, as points",
    "figure8v": "The trained A and B of W^V by method, as points",
}


def draw_panels(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Draw each table as the panel of its name; empty ones are left out.

    Returns:
        Paths of the SVG files; PNG and CSV files stand beside them.

    Raises:
        UserError: ``folder`` cannot be written.
    """
    drawn = []
    for name, table in tables.items():
        if len(table):
            draw(lambda table=table, name=name: (PANELS[name](table), _rows(table)), folder / name)  # type: ignore[misc]
            drawn.append(folder / f"{name}.svg")
    return drawn


def draw_schematic(folder: Path) -> Path:
    """Figure 2, which shows no data."""
    draw(lambda: (schematic(), []), folder / "figure2")
    return folder / "figure2.svg"


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The CSV files of panels in a folder, to draw them again.

    Raises:
        UserError: A file is no table.
    """
    found = {}
    for name in PANELS:
        path = folder / f"{name}.csv"
        try:
            found[name] = pd.read_csv(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: is no table ({error}); measure the figure again") from error
    return found


def _rows(table: pd.DataFrame) -> Rows:
    filled = table.astype(object).where(table.notna(), "")
    return [list(table.columns), *filled.to_numpy().tolist()]
