"""What a sweep tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ailora.lab.experiments.failure import Failure
from ailora.lab.experiments.jobs import Job
from ailora.lab.experiments.store import Run


@dataclass(frozen=True)
class Step:
    """A run made a step of what it does: training, evaluating, ..."""

    job: Job
    step: int
    steps: int
    what: str


@dataclass(frozen=True)
class Ended:
    """A run came to its end or failed; ``before`` says that this sweep found it so."""

    job: Job
    result: Run | Failure
    before: bool = False


@dataclass(frozen=True)
class Elsewhere:
    """Another process does this run; the sweep comes back to it."""

    job: Job
    owner: str


Event = Step | Ended | Elsewhere
Tell = Callable[[Event], None]
