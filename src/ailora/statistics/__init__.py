"""Statistics of scores by setting and seed: spreads, paired differences, ranks over tasks."""

from ailora.statistics.pairs import Paired, paired
from ailora.statistics.ranks import Ranking, rank_over_tasks
from ailora.statistics.scores import ENOUGH, Scores
from ailora.statistics.several import holm
from ailora.statistics.spread import Spread, spread, student_interval

__all__ = [
    "ENOUGH",
    "Paired",
    "Ranking",
    "Scores",
    "Spread",
    "holm",
    "paired",
    "rank_over_tasks",
    "spread",
    "student_interval",
]
