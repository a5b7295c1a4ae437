"""Figures, each written as SVG and PNG with its data beside it."""

from ailora.lab.report.figures.comparison import selection_score, training_loss, update_norms
from ailora.lab.report.figures.drawing import draw, svg_of

__all__ = ["draw", "selection_score", "svg_of", "training_loss", "update_norms"]
