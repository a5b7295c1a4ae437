"""Experiments: many runs under one plan."""

from ailora.experiments.compare import CompareConfig, Outcome, compare

__all__ = ["CompareConfig", "Outcome", "compare"]
