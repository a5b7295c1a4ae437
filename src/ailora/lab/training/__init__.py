"""Training one adapter on one task, and what a run leaves behind."""

from typing import TYPE_CHECKING

from ailora.lab.settings import RunConfig
from ailora.lazy import lazily

if TYPE_CHECKING:
    from ailora.lab.training.run import train

__all__ = ["RunConfig", "train"]

__getattr__ = lazily(__name__, {"train": "run"})
