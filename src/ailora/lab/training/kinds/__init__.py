"""What training does differently for each kind of task; the rest of a run is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ailora.lab.settings import RunConfig
from ailora.lab.tasks import ChatTask, GenerationTask, QATask, Task, TextTask
from ailora.lab.training.kinds.base import Kind, Scored
from ailora.lab.training.kinds.chat import Chat
from ailora.lab.training.kinds.classification import Classification
from ailora.lab.training.kinds.generation import Generation
from ailora.lab.training.kinds.question_answering import QuestionAnswering

__all__ = ["KINDS", "Kind", "Scored", "kind_of"]

# Every kind of task there is, by the class of its tasks; `Kind` says what a new one has to fill in.
KINDS: Mapping[type[Task], type[Kind[Any]]] = {
    TextTask: Classification,
    QATask: QuestionAnswering,
    ChatTask: Chat,  # before what it is a case of
    GenerationTask: Generation,
}


def kind_of(task: Task, config: RunConfig) -> Kind[Any]:
    """A task and the settings of a run, as the task's kind.

    Raises:
        TypeError: The task is of no class in `KINDS`.
    """
    for task_class, kind in KINDS.items():
        if isinstance(task, task_class):
            return kind(task, config)
    raise TypeError(f"no kind of training for a {type(task).__name__}")
