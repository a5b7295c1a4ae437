"""What training does differently for each kind of task; the rest of a run is the same."""

from ailora.lab.training.kinds.base import Kind, Scored
from ailora.lab.training.kinds.choose import kind_of

__all__ = ["Kind", "Scored", "kind_of"]
