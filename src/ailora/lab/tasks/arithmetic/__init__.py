"""Arithmetic word problems: tuned on some sets, tested on others, scored by the last number."""
