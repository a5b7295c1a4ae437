"""Questions on contexts: reading, windows for a model, answers out of its scores, and EM and F1."""

from ailora.lab.tasks.qa.load import load_squad, load_squad_v1, load_squad_v2, load_xquad_en
from ailora.lab.tasks.qa.rows import looks_like_questions

__all__ = [
    "load_squad",
    "load_squad_v1",
    "load_squad_v2",
    "load_xquad_en",
    "looks_like_questions",
]
