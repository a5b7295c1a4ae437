"""The methods of a comparison, each a function from a model to an adapted model."""

from ailora.lab.methods.counting.counts import Counts, count
from ailora.lab.methods.head import head_names
from ailora.lab.methods.settings import Batches, Settings
from ailora.lab.methods.storage.storing import load, merge, restore, save
from ailora.lab.methods.table import METHODS, Method, method_named

__all__ = [
    "METHODS",
    "Batches",
    "Counts",
    "Method",
    "Settings",
    "count",
    "head_names",
    "load",
    "merge",
    "method_named",
    "restore",
    "save",
]
