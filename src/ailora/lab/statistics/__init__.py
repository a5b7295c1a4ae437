"""Statistics of scores by setting and seed: spreads, paired differences, ranks over tasks."""

from ailora.lab.statistics.differences import (
    FEWEST,
    Difference,
    detectable,
    seed_and_row_difference,
    seed_difference,
)
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
    "FEWEST",
    "Difference",
    "Paired",
    "Spread",
    "detectable",
    "holm",
    "paired",
    "rank_over_tasks",
    "seed_and_row_difference",
    "seed_difference",
    "spread",
    "student_interval",
]
