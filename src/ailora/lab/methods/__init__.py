"""The methods of a comparison, each a function from a model to an adapted model."""

from ailora.lab.methods.counting import Counts, count
from ailora.lab.methods.saving import load, merge, restore, save
from ailora.lab.methods.table import METHODS, Batches, Look, Method, method_named
from ailora.lab.methods.targets import head_names

__all__ = [
    "METHODS",
    "Batches",
    "Counts",
    "Look",
    "Method",
    "count",
    "head_names",
    "load",
    "merge",
    "method_named",
    "restore",
    "save",
]
