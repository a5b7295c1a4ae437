"""The methods of a comparison, each a function from a model to an adapted model."""

from typing import TYPE_CHECKING

from ailora.lab.methods.table import METHODS, Batches, Look, Method, method_named
from ailora.lazy import lazily

if TYPE_CHECKING:
    from ailora.lab.methods.counting import Counts, count
    from ailora.lab.methods.saving import load, merge, restore, save
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

# torch, transformers and PEFT are imported when a model is at hand, not to name its method.
_NEEDING_TORCH = {"counting": ("Counts", "count"), "targets": ("head_names",)}
_NEEDING_TORCH |= {"saving": ("load", "merge", "restore", "save")}
__getattr__ = lazily(
    __name__, {name: home for home, names in _NEEDING_TORCH.items() for name in names}
)
