"""Statistics of scores by setting and seed: spreads, paired differences, ranks over tasks."""

from ailora.lab.statistics.over_seeds import (
    ENOUGH,
    Paired,
    Spread,
    paired,
    spread,
    student_interval,
)
from ailora.lab.statistics.over_tasks import holm, rank_over_tasks

__all__ = [
    "ENOUGH",
    "Paired",
    "Spread",
    "holm",
    "paired",
    "rank_over_tasks",
    "spread",
    "student_interval",
]
