"""Tasks: the embedded one, the paper's, your own files, the hub."""

from ailora.tasks.base import GenerationTask, QATask, Task, TextTask
from ailora.tasks.classification.metrics import METRICS, compute
from ailora.tasks.classification.movies import load_movies
from ailora.tasks.classification.text import load_text_task
from ailora.tasks.resolve import load_task

__all__ = [
    "METRICS",
    "GenerationTask",
    "QATask",
    "Task",
    "TextTask",
    "compute",
    "load_movies",
    "load_task",
    "load_text_task",
]
