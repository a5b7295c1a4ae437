"""Experiments: many runs under one plan."""

from ailora.lab.experiments.grid import Grid
from ailora.lab.experiments.store import Store
from ailora.lab.experiments.sweep import Outcome, sweep

__all__ = ["Grid", "Outcome", "Store", "sweep"]
