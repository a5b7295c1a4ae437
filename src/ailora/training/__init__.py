"""Training one adapter on one task, and what a run leaves behind."""

from ailora.training.config import RunConfig
from ailora.training.run import train

__all__ = ["RunConfig", "train"]
