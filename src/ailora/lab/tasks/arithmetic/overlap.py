"""Problems that are in more than one split: sets of this kind are known to leak their tests.

LLM-Adapters' authors withdrew three of their tests, since MAWPS, which Math10K holds, contains
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from datasets import Dataset


def key(problem: str) -> str:
    """What is compared: letters and digits alone, without case."""
    return re.sub(r"[\W_]+", "", problem.casefold())


def without(train: Dataset, *held: Dataset) -> Dataset:
    """Return the training rows whose problem is in none of the held sets."""
    taken = {key(problem) for rows in held for problem in rows["source"]}
    return train.select(
        [row for row, problem in enumerate(train["source"]) if key(problem) not in taken]
    )


def overlap_notes(train: Dataset, held: Mapping[str, Dataset]) -> tuple[str, ...]:
    """Say for each held set how many of its rows are training problems too, 0 included."""
    known = {key(problem) for problem in train["source"]}
    return tuple(
        f"{sum(key(problem) in known for problem in rows['source'])} of {len(rows)} {name} rows "
        "are training problems (case, spacing and punctuation aside)"
        for name, rows in held.items()
    )
