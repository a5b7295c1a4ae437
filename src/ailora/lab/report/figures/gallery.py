"""The paper's figures by name: panels drawn from tables or CSV files, and the schematic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from ailora.errors import UserError
from ailora.lab.report.figures import panels
from ailora.lab.report.figures.drawing import ROLE_LOOKS, Rows, draw

PANELS: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "figure1ab": panels.weight_points,
    "figure1cd": panels.update_norms,
    "figure3a": panels.loss_by_epoch,
    "figure3b": panels.score_by_epoch,
    "figure4a": panels.similarity,
    "figure4b": panels.forgetting,
    "figure5a": panels.loss_by_rank,
    "figure5b": panels.score_by_rank,
    "figure6": panels.scores,
    "figure7": panels.similarity,
    "figure8q": panels.factor_points,
    "figure8v": panels.factor_points,
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


_FROZEN, _SPECTRUM = "#d9d9d9", (1.0, 0.82, 0.68, 0.57, 0.48, 0.4, 0.33, 0.27, 0.22, 0.17)
_KEPT = 3  # how many of the drawn singular values
_ROLES = {
    "q": ("principal: the r largest", "trained at\nrate $\\eta$"),
    "v": ("minor: the r smallest", "trained at\nrate $2\\eta$"),
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
    draw(lambda: (_schematic(), []), folder / "figure2")
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


def _schematic() -> Figure:
    """W^Q's principal and W^V's minor triplets become factors; the rest stays frozen."""
    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    both = figure.subplots(1, 2, gridspec_kw={"wspace": 0.12})
    for axes, role in zip(both, ("q", "v"), strict=True):
        axes.set(xlim=(0, 10), ylim=(0, 6.4))
        axes.axis("off")
        _role(axes, role)
    return figure


def _role(axes: Axes, role: str) -> None:
    color, (part, rate) = ROLE_LOOKS[role][0], _ROLES[role]
    kept = range(_KEPT) if role == "q" else range(len(_SPECTRUM) - _KEPT, len(_SPECTRUM))
    axes.text(0, 6.0, f"$W^{role.upper()} = U \\Sigma V^T$", fontsize=11, weight="bold")
    for index, value in enumerate(_SPECTRUM):
        chosen = index in kept
        axes.add_patch(
            Rectangle(
                (0.42 * index, 2.6),
                0.34,
                2.9 * value,
                facecolor=color if chosen else _FROZEN,
                edgecolor="black" if chosen else "none",
                linewidth=0.8,
            )
        )
    axes.text(0, 2.0, "singular values,\nlargest first", fontsize=8, va="top")
    axes.text(0, 0.2, part, fontsize=8.5, color=color, weight="bold")
    axes.add_patch(
        FancyArrowPatch((4.5, 3.9), (5.6, 3.9), arrowstyle="-|>", mutation_scale=12, color="black")
    )
    _matrix(axes, (5.9, 2.8), (1.9, 2.2), _FROZEN, "$W_r$")
    axes.text(8.05, 3.75, "+", fontsize=12)
    _matrix(axes, (8.5, 2.8), (0.45, 2.2), color, "$B$")
    _matrix(axes, (9.05, 4.55), (0.95, 0.45), color, "$A$")
    axes.text(6.85, 2.4, "the rest,\nfrozen", fontsize=8, color="#555555", ha="center", va="top")
    axes.text(10, 2.4, rate, fontsize=8, color=color, ha="right", va="top", weight="bold")
    axes.text(10, 0.2, "$W_r + BA = W$ at step 0", fontsize=8.5, ha="right")


def _matrix(
    axes: Axes, corner: tuple[float, float], size: tuple[float, float], color: str, name: str
) -> None:
    axes.add_patch(Rectangle(corner, *size, facecolor=color, edgecolor="black", linewidth=0.8))
    x, y = (at + length / 2 for at, length in zip(corner, size, strict=True))
    dark = color != _FROZEN
    axes.text(x, y, name, ha="center", va="center", color="white" if dark else "black", fontsize=9)
