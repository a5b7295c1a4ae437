"""What an engine is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ailora.lab.experiments.events import Tell
from ailora.lab.experiments.jobs import Job
from ailora.lab.experiments.store import Store


class Engine(Protocol):
    """Does runs, in any order and any number at a time."""

    def run(self, jobs: Sequence[Job], store: Store, tell: Tell) -> None:
        """Do each run, into its folder of the store.

        Every run is told of as `Ended`, or as `Elsewhere` where another process holds its folder.
        Failures are written down in the store. ``tell`` is called from this thread alone.
        """
        ...
