"""The kind that a task is of."""

from __future__ import annotations

from typing import Any

from ailora.tasks import Task, TextTask
from ailora.training.config import RunConfig
from ailora.training.kinds.base import Kind
from ailora.training.kinds.classification import Classification


def kind_of(task: Task, config: RunConfig) -> Kind[Any]:
    """The kind for a task, by the task's own class."""
    if isinstance(task, TextTask):
        return Classification(task, config)
    raise TypeError(f"no kind for a {type(task).__name__}")
