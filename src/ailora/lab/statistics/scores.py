"""Scores of settings by seed, and what must hold of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ailora.errors import UserError

Scores = Mapping[str, Mapping[int, float]]  # setting -> seed -> score

ENOUGH = 5  # seeds (or tasks) below which nothing is concluded


def check_scores(scores: Mapping[int, float], what: str) -> None:
    """Raise a UserError unless there are scores and all are finite numbers.

    Args:
        scores: By seed.
        what: The setting's name, for the message.
    """
    if not scores:
        raise UserError(f"{what}: no scores; finish at least one run")
    for seed, score in scores.items():
        if not math.isfinite(score):
            raise UserError(
                f"{what}, seed {seed}: its score is {score}; leave the run out or run it again"
            )


def check_known(name: str, settings: Mapping[str, object]) -> None:
    """Raise a UserError that lists the settings if there is none of that name."""
    if name not in settings:
        raise UserError(f"no scores of {name!r}; there are {', '.join(settings) or 'none'}")
