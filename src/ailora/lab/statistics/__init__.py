"""Statistics of scores by setting and seed: spreads, paired differences, ranks over tasks."""

from ailora.lab.statistics.pairs import Paired, paired
from ailora.lab.statistics.ranks import Ranking, rank_over_tasks
from ailora.lab.statistics.scores import ENOUGH, Scores
from ailora.lab.statistics.several import holm
from ailora.lab.statistics.spread import Spread, spread, student_interval

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
