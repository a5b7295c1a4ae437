"""Settings of the paper, and of the works it says it follows, each with its source."""

from ailora.lab.training.published.base import Published
from ailora.lab.training.published.choose import published

__all__ = ["Published", "published"]
