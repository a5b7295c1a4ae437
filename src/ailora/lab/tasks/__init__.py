"""Tasks: the embedded one, the paper's, your own files, the hub."""

from ailora.lab.tasks.base import GenerationTask, QATask, Task, TextTask
from ailora.lab.tasks.classification.metrics import METRICS, compute
from ailora.lab.tasks.classification.movies import load_movies
from ailora.lab.tasks.classification.text import load_text_task
from ailora.lab.tasks.resolve import load_task

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
