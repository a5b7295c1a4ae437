"""Experiments: many runs under one plan."""

from ailora.experiments.grid import Grid
from ailora.experiments.store import Store
from ailora.experiments.sweep import Outcome, sweep

__all__ = ["Grid", "Outcome", "Store", "sweep"]
