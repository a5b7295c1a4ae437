"""Training one adapter on one task, and what a run leaves behind."""

from ailora.lab.settings import RunConfig
from ailora.lab.training.run import train

__all__ = ["RunConfig", "train"]
