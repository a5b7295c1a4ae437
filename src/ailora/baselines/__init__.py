"""The methods of a comparison, each a function from a model to an adapted model."""

from ailora.baselines.counting.counts import Counts, count
from ailora.baselines.head import head_names
from ailora.baselines.settings import Batches, Settings
from ailora.baselines.storage.storing import load, merge, restore, save
from ailora.baselines.table import METHODS, Method, method_named

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
