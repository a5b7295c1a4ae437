"""Tasks: the embedded one, the paper's, your own files, the hub."""

from typing import TYPE_CHECKING

from ailora.lazy import lazily

if TYPE_CHECKING:
    from ailora.lab.tasks.classification.metrics import METRICS, compute
    from ailora.lab.tasks.classification.movies import load_movies
    from ailora.lab.tasks.classification.text import load_text_task
    from ailora.lab.tasks.generation.conversations import load_conversations
    from ailora.lab.tasks.generation.instructions import load_instructions
    from ailora.lab.tasks.generation.summaries import load_summaries
    from ailora.lab.tasks.qa.squad import load_squad
    from ailora.lab.tasks.registry import load_task
    from ailora.lab.tasks.task import (
        ChatTask,
        GenerationTask,
        QATask,
        Task,
        TextTask,
        fingerprint_of,
    )

__all__ = [
    "METRICS",
    "ChatTask",
    "GenerationTask",
    "QATask",
    "Task",
    "TextTask",
    "compute",
    "fingerprint_of",
    "load_conversations",
    "load_instructions",
    "load_movies",
    "load_squad",
    "load_summaries",
    "load_task",
    "load_text_task",
]

_HOME = {
    "ChatTask": "task",
    "GenerationTask": "task",
    "METRICS": "classification.metrics",
    "QATask": "task",
    "Task": "task",
    "TextTask": "task",
    "compute": "classification.metrics",
    "fingerprint_of": "task",
    "load_conversations": "generation.conversations",
    "load_instructions": "generation.instructions",
    "load_movies": "classification.movies",
    "load_squad": "qa.squad",
    "load_summaries": "generation.summaries",
    "load_task": "registry",
    "load_text_task": "classification.text",
}
__getattr__ = lazily(__name__, _HOME)
