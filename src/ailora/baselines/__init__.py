"""The methods of a comparison, each a function from a model to an adapted model."""

from ailora.baselines.counts import Counts, count
from ailora.baselines.head import head_names
from ailora.baselines.method import Method
from ailora.baselines.settings import Batches, Settings
from ailora.baselines.storing import load, merge, save
from ailora.baselines.table import METHODS

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
    "save",
]
