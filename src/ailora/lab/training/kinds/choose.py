"""The kind that a task is of."""

from __future__ import annotations

from typing import Any

from ailora.lab.tasks import GenerationTask, QATask, Task, TextTask
from ailora.lab.training.config import RunConfig
from ailora.lab.training.kinds.base import Kind
from ailora.lab.training.kinds.classification import Classification
from ailora.lab.training.kinds.generation import Generation
from ailora.lab.training.kinds.question_answering import QuestionAnswering


def kind_of(task: Task, config: RunConfig) -> Kind[Any]:
    """The kind for a task, by the task's own class."""
    if isinstance(task, TextTask):
        return Classification(task, config)
    if isinstance(task, QATask):
        return QuestionAnswering(task, config)
    if isinstance(task, GenerationTask):
        return Generation(task, config)
    raise TypeError(f"no kind of training for a {type(task).__name__}")
