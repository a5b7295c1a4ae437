"""Figures, each written as SVG and PNG with its data beside it."""
