"""Summarisation: the sets known by name, and documents with summaries of your own."""

from ailora.lab.tasks.summarization.known import load_summarization
from ailora.lab.tasks.summarization.own import is_summaries, load_summaries
from ailora.lab.tasks.summarization.rows import TEMPLATE
from ailora.lab.tasks.summarization.sets import SETS, SummarySet

__all__ = [
    "SETS",
    "TEMPLATE",
    "SummarySet",
    "is_summaries",
    "load_summaries",
    "load_summarization",
]
