"""Checkpoints of safetensors files, read and written a tensor at a time without the model."""

from ailora.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ailora.checkpoints.structure import Structure, read_structure

__all__ = ["Checkpoint", "Structure", "open_checkpoint", "read_structure"]
