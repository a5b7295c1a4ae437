"""What a fair comparison will cost, and what fewer or more seeds would let it see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ailora.errors import UserError
from ailora.lab.experiments.fair import START, Protocol, stages
from ailora.lab.experiments.wording import counted, duration
from ailora.lab.report.best_to_best import smallest_by_seeds
from ailora.lab.report.text_tables import Rows
from ailora.lab.statistics import ENOUGH, FEWEST

WIDENED = 2  # rates per setting that widening is expected to add
PLAN_HEADER = ["reporting seeds", "runs", "time", "smallest difference seen (80 %)"]
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a protocol costs.

    Attributes:
        protocol: What is compared.
        seconds: Seconds of one run of each setting, in their order.
        at_once: Number of runs at a time.
    """

    protocol: Protocol
    seconds: Sequence[float]
    at_once: int = 1

    def runs(self, reporting: int) -> int:
        """Runs with so many reporting seeds, with the rates that widening is expected to add."""
        return len(self.protocol.settings) * self._runs_each(reporting)

    def time(self, reporting: int) -> float:
        """Seconds that they take."""
        return self._runs_each(reporting) * sum(self.seconds) / self.at_once

    def rows(self) -> Rows:
        """The plan beside smaller and larger ones; the one to be done is marked."""
        own = len(self.protocol.report)
        counts = sorted({FEWEST, ENOUGH, 2 * ENOUGH, own})
        seen = smallest_by_seeds(len(self.protocol.settings) - 1, counts)
        return [
            [
                f"{n}{' (this plan)' if n == own else ''}",
                str(self.runs(n)),
                f"about {duration(self.time(n))}",
                f"{seen[n]:.1f} s.d." + (", no verdict" if n < ENOUGH else ""),
            ]
            for n in counts
        ]

    def within(self, budget: float) -> Protocol:
        """The protocol with as many reporting seeds as a budget in seconds allows.

        Raises:
            UserError: Not even the fewest fit.
        """
        fewest = min(FEWEST, len(self.protocol.report))
        for n in range(len(self.protocol.report), fewest - 1, -1):
            if self.time(n) <= budget:
                return replace(self.protocol, report=tuple(self.protocol.report)[:n])
        raise UserError(
            f"--budget {duration(budget)}: {counted(fewest, 'reporting seed')} and the search for "
            f"rates take about {duration(self.time(fewest))}; give that, fewer methods, or --limit"
        )

    @property
    def notes(self) -> str:
        """What the table takes for granted."""
        words = (
            f"Counted with {WIDENED} rates more per method than the first {START}; a search whose "
            "best lies further out takes more. s.d.: standard deviation, between seeds, of the "
            "paired difference; at the level that Holm's correction leaves."
        )
        if not self.protocol.halving:
            return words
        full = START * len(self.protocol.choose)
        saved = full - _choosing(START, self.protocol)
        return (
            f"{words} Halving saves {saved} of {full} first runs of a method; its risk: a rate "
            "that one seed shows too low is dropped for good."
        )

    def _runs_each(self, reporting: int) -> int:
        return _choosing(START + WIDENED, self.protocol) + reporting


def seconds_of(text: str) -> float:
    """The seconds of ``90s``, ``45m``, ``2h`` or ``1.5h``.

    Raises:
        UserError: Something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", text.strip())
    if not found or not float(found[1]):
        raise UserError(f"--budget {text!r}: give a time such as 45m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def _choosing(rates: int, protocol: Protocol) -> int:
    """Runs that choose among so many rates."""
    runs = 0
    for place, seeds in enumerate(stages(protocol.choose, halving=protocol.halving)):
        rates = rates if not place else -(-rates // 2)
        runs += rates * len(seeds)
    return runs
