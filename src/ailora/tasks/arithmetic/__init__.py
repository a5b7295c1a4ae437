"""Arithmetic word problems: tuned on some sets, tested on others, scored by the last number."""

from ailora.tasks.arithmetic.load import TESTS, TRAIN, load_arithmetic

__all__ = ["TESTS", "TRAIN", "load_arithmetic"]
