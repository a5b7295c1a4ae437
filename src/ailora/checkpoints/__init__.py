"""Checkpoints of safetensors files, read and written a tensor at a time without the model."""

from ailora.checkpoints.source import Checkpoint, open_checkpoint
from ailora.checkpoints.structure import Structure, read_structure

__all__ = ["Checkpoint", "Structure", "open_checkpoint", "read_structure"]
