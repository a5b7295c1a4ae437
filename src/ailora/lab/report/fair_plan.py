"""What a fair comparison will cost, and what fewer or more seeds would let it see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ailora.errors import UserError
from ailora.lab.experiments.fair import START, Protocol, Search, setting_key, stages
from ailora.lab.experiments.wording import counted, duration
from ailora.lab.report.best_to_best import smallest_by_seeds
from ailora.lab.report.text_tables import Rows
from ailora.lab.settings import RunConfig
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
        basis: What the seconds rest on, in words.
        searches: How far each setting was when the plan was made, in their order; none where
            nothing was done before.
    """

    protocol: Protocol
    seconds: Sequence[float]
    at_once: int = 1
    basis: str = "a few measured steps of each kind of run"
    searches: Sequence[Search] = ()

    @property
    def done(self) -> int:
        """Number of its runs that were done before."""
        return sum(len(by_seed) for one in self.searches for by_seed in one.ends.values())

    def runs(self, reporting: int) -> int:
        """Runs with so many reporting seeds, with the rates that widening is expected to add."""
        return len(self.protocol.settings) * self._runs_each(reporting)

    def left(self, reporting: int) -> int:
        """Those of them that were not done before."""
        return sum(self._left_each(reporting))

    def time(self, reporting: int) -> float:
        """Seconds that what is left takes."""
        left = zip(self._left_each(reporting), self.seconds, strict=True)
        return sum(runs * seconds for runs, seconds in left) / self.at_once

    def time_of(self, runs: Sequence[RunConfig]) -> float:
        """Seconds that single runs take, at once as many as go."""
        pairs = zip(self.protocol.settings, self.seconds, strict=True)
        by_setting = {setting_key(setting): seconds for setting, seconds in pairs}
        return sum(by_setting[setting_key(run)] for run in runs) / self.at_once

    @property
    def whole(self) -> str:
        """The time for all of it, and what that rests on."""
        own = len(self.protocol.report)
        return (
            f"By {self.basis}: {counted(self.left(own), 'run')} take about "
            f"{duration(self.time(own))}."
        )

    def rows(self) -> Rows:
        """The plan beside smaller and larger ones; the one to be done is marked."""
        own = len(self.protocol.report)
        return [
            [
                f"{n}{' (this plan)' if n == own else ''}",
                str(self.runs(n)),
                f"about {duration(self.time(n))}",
                self.seen(n),
            ]
            for n in sorted({FEWEST, ENOUGH, 2 * ENOUGH, own})
        ]

    def seen(self, reporting: int) -> str:
        """The smallest difference that so many reporting seeds see, in words."""
        if reporting < 2:
            return "none, no verdict"
        alike = Counter(
            (one.task, one.model, one.rank, str(one.ranks)) for one in self.protocol.settings
        )
        comparisons = max(alike.values()) - 1
        if not comparisons:
            return "nothing to compare"
        size = smallest_by_seeds(comparisons, [reporting])[reporting]
        return f"{size:.1f} s.d." + ", no verdict" * (reporting < ENOUGH)

    def cost(self, asked: int) -> str:
        """What reporting on fewer seeds than were asked for costs in power; empty for no fewer."""
        own = len(self.protocol.report)
        if own >= asked:
            return ""
        return (
            f"The budget leaves {own} of {asked} reporting seeds. Its cost in power: the smallest "
            f"difference seen is {self.seen(own)}, instead of {self.seen(asked)}"
            + (f"; below {ENOUGH} seeds no difference is called shown" if own < ENOUGH else "")
            + "."
        )

    def corrected(self, factor: float, basis: str) -> Plan:
        """The plan with runs that take so many times the seconds."""
        return replace(self, seconds=[one * factor for one in self.seconds], basis=basis)

    @property
    def fewest(self) -> Protocol:
        """The protocol with the fewest reporting seeds that a budget leaves."""
        return replace(self.protocol, report=self.protocol.report[:FEWEST])

    def within(self, budget: float) -> Protocol:
        """The protocol with as many reporting seeds as a budget in seconds allows.

        Raises:
            UserError: Not even the fewest fit.
        """
        fewest = len(self.fewest.report)
        for n in range(len(self.protocol.report), fewest - 1, -1):
            if self.time(n) <= budget:
                return replace(self.protocol, report=self.protocol.report[:n])
        raise UserError(
            f"--budget {duration(budget)}: {counted(fewest, 'reporting seed')} and the search for "
            f"rates take about {duration(self.time(fewest))}; give that, fewer methods, or --limit"
        )

    @property
    def notes(self) -> str:
        """What the table takes for granted."""
        words = (
            f"Times rest on {self.basis}, and grow with what else the machine does. "
            + f"{counted(self.done, 'run')} of these were done before and take no time. "
            * bool(self.done)
            + f"Counted with {WIDENED} rates more per method than the first {START}; a search "
            "whose best lies further out takes more. s.d.: standard deviation, between seeds, of "
            "the paired difference; at the level that Holm's correction leaves."
        )
        if not self.protocol.halving:
            return words
        full = START * len(self.protocol.choose)
        saved = full - _choosing(START, self.protocol)
        return (
            f"{words} Halving saves {saved} of {full} first runs of a method; its risk: a rate "
            "that one seed shows too low is dropped for good."
        )

    def _left_each(self, reporting: int) -> list[int]:
        """Runs of each setting that were not done before."""
        if not self.searches:
            return [self._runs_each(reporting)] * len(self.protocol.settings)
        return [self._left_of(search, reporting) for search in self.searches]

    def _left_of(self, search: Search, reporting: int) -> int:
        if search.best is not None:
            at_best = search.ends.get(search.best, {})
            return max(0, reporting - sum(seed in at_best for seed in self.protocol.report))
        if not search.missing:  # it diverged everywhere
            return 0
        done = sum(len(by_seed) for by_seed in search.ends.values())
        expected = _choosing(START + WIDENED, self.protocol) - done
        return max(len(search.missing), expected) + reporting

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
