"""Score over learning rate: how wide each setting's plateau is, and what a wrong rate loses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ailora.lab.experiments.fair import Ends, Protocol, Search, best_rate, mean_score, stages
from ailora.lab.experiments.store import Store, Stored
from ailora.lab.experiments.wording import counted, number_words
from ailora.lab.report.best_to_best import Reported, reported_of, told_apart
from ailora.lab.report.text_tables import Rows

_ROUNDING = 1e-9
POINT = 0.01  # rates whose mean score is this close to the best are as good as it
RATE_HEADER = [
    *("method", "best lr", "times baseline's", "not told apart", "within a point"),
    *("at twice the rate", "at half the rate", "tried"),
]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Selection score over the rates of one setting.

    Attributes:
        label: How tables name the setting.
        method: The method with its own settings, as `ailora.lab.methods.variants` writes it.
        best: The chosen rate; the best so far in a search that is not done.
        points: Rate, and mean, lowest and highest score over the choosing seeds, by rate; minus
            infinity where a seed diverged. Without the rates that halving dropped.
        tried: Number of rates that were tried, with those.
        alike: Lowest and highest of the neighbouring rates that the selection rows do not tell
            apart from the best; None where nothing tells.
        doubt: Why its rate may not be the best; empty where nothing speaks against it.
        halved: What halving saved and risked; empty without it.
    """

    label: str
    method: str
    best: float
    points: Sequence[tuple[float, float, float, float]]
    tried: int
    alike: tuple[float, float] | None = None
    doubt: str = ""
    halved: str = ""

    @property
    def note(self) -> str:
        """What is to be known of its search; empty where nothing is."""
        return "; ".join(filter(None, (self.doubt, self.halved)))

    @property
    def plateau(self) -> tuple[float, float]:
        """The neighbouring rates around the best whose mean lies within `POINT` of its."""
        rates = [rate for rate, *_ in self.points]
        near = [self._best_mean - mean <= POINT + _ROUNDING for _, mean, *_ in self.points]
        low = high = rates.index(self.best)
        while low > 0 and near[low - 1]:
            low -= 1
        while high < len(rates) - 1 and near[high + 1]:
            high += 1
        return rates[low], rates[high]

    def lost(self, factor: float) -> float | None:
        """Score lost at so many times the best rate, on the line between the rates beside it.

        Infinite where a run diverged there; None where no rate was tried beyond.
        """
        wanted = math.log10(self.best * factor)
        places = [(math.log10(rate), mean) for rate, mean, *_ in self.points]
        below = [place for place in places if place[0] <= wanted]
        above = [place for place in places if place[0] >= wanted]
        if not below or not above:
            return None
        (left, low), (right, high) = below[-1], above[0]
        if not math.isfinite(low + high):
            return math.inf
        share = 0.0 if right == left else (wanted - left) / (right - left)
        return self._best_mean - (low + share * (high - low))

    def row(self, baseline: float | None) -> list[str]:
        """Its rate beside the baseline's, and how much it matters: a row under `RATE_HEADER`."""
        low, high = self.plateau
        return [
            self.label,
            number_words(self.best),
            f"{self.best / baseline:.2g}" if baseline else "-",
            "-" if self.alike is None else _range(*self.alike),
            f"{_range(low, high)} (x {high / low:.2g})",
            lost_words(self.lost(2)),
            lost_words(self.lost(1 / 2)),
            f"{_range(self.points[0][0], self.points[-1][0])} ({self.tried})",
        ]

    @property
    def sure(self) -> str:
        """How sure the rate is, in a sentence; empty where nothing tells."""
        if self.alike is None:
            return ""
        if self.alike == (self.best, self.best):
            words = "the rates beside it are told apart from it on the selection rows"
        elif self.alike == (self.points[0][0], self.points[-1][0]):
            words = (
                f"none of the {self.tried} rates that were tried is told apart from it on the "
                "selection rows; more of those, or more choosing seeds, would"
            )
        else:
            words = (
                f"rates from {_range(*self.alike)} are not told apart from it on the selection rows"
            )
        return f"How sure the rate is: {words}."

    @property
    def words(self) -> str:
        """How much the rate matters, in a sentence."""
        low, high = self.plateau
        near = (
            "no neighbouring rate is"
            if low == high
            else f"rates from {number_words(low)} to {number_words(high)} are"
        )
        return (
            f"How much the rate matters: {near} within a point ({POINT}) of its best on the "
            f"selection rows; {self._loses(2, 'a rate twice as large')}, "
            f"{self._loses(0.5, 'one half as large')}."
        )

    def _loses(self, factor: float, what: str) -> str:
        lost = self.lost(factor)
        if lost is None:
            return f"{what} was not tried with every seed"
        return f"{what} diverges" if math.isinf(lost) else f"{what} loses {lost:.3f}"

    @property
    def _best_mean(self) -> float:
        return next(mean for rate, mean, *_ in self.points if rate == self.best)


def rate_rows(curves: Sequence[Curve], baseline: str) -> Rows:
    """One row per setting; the baseline's label, or one that none of them has."""
    base = next((curve.best for curve in curves if curve.label == baseline), None)
    return [curve.row(base) for curve in curves]


def curve_of(
    label: str, method: str, search: Search, protocol: Protocol, store: Store
) -> Curve | None:
    """The curve of a setting, or what there is of it so far; None without a rate that is scored."""
    ends = {rate: search.ends.get(rate, {}) for rate in search.rates if rate not in search.dropped}
    kept = [rate for rate in ends if mean_score(ends[rate], protocol.choose) is not None]
    best = best_rate({rate: ends[rate] for rate in kept}, protocol.choose)
    if best is None:
        return None
    points = [(rate, *_levels(search.ends[rate], protocol.choose)) for rate in kept]
    same = len({mean for _, mean, *_ in points}) == 1 < len(points)
    return Curve(
        label=label,
        method=method,
        best=best,
        points=points,
        tried=len(kept) + len(search.dropped),
        alike=_alike(best, {rate: ends[rate] for rate in kept}, protocol.choose, store),
        doubt="every rate scored the same on the selection rows" if same else search.stopped,
        halved=_halved(search, protocol),
    )


def lost_words(value: float | None) -> str:
    """A lost score, which may be all of it."""
    if value is None:
        return "not tried"
    return "all (diverges)" if math.isinf(value) else f"{value:.3f}"


def _range(low: float, high: float) -> str:
    alone = number_words(low)
    return alone if low == high else f"{alone} to {number_words(high)}"


def _alike(
    best: float, ends: Ends, choose: Sequence[int], store: Store
) -> tuple[float, float] | None:
    """The neighbouring rates around the best that are not told apart from it."""

    def scored(rate: float) -> dict[int, Reported]:
        runs = {seed: ends[rate][seed] for seed in choose}
        return {
            seed: reported_of(one.result, store.path / one.run_id, "selection")
            for seed, one in runs.items()
            if one.result is not None
        }

    base, rates = scored(best), list(ends)
    place = rates.index(best)
    ways = (rates[place + 1 :], rates[:place][::-1])
    reached = [best, best]
    for way, further in enumerate(ways):
        for rate in further:
            own = scored(rate)
            apart = told_apart(own, base) if len(own) == len(base) else True  # or it diverged
            if apart is None:
                return None
            if apart:
                break
            reached[way] = rate
    return reached[1], reached[0]


def _levels(by_seed: Mapping[int, Stored], seeds: Sequence[int]) -> tuple[float, float, float]:
    scores = [score for seed in seeds if (score := mean_score(by_seed, [seed])) is not None]
    return fmean(scores), min(scores), max(scores)


def _halved(search: Search, protocol: Protocol) -> str:
    """What halving saved, and how near the best of the dropped rates was when it was dropped."""
    if not search.dropped or search.best is None:
        return ""
    seeds = stages(protocol.choose, halving=True)[0]
    best = mean_score(search.ends[search.best], seeds)
    others = [mean_score(search.ends[rate], seeds) for rate in search.dropped]
    nearest = max((one for one in others if one is not None), default=None)
    done = sum(len(set(search.ends[rate]) & set(protocol.choose)) for rate in search.rates)
    saved = len(search.rates) * len(protocol.choose) - done
    words = f"halving saved {counted(saved, 'run')} and dropped {counted(len(others), 'rate')}"
    if best is None or nearest is None or nearest == -math.inf:
        return words
    where = f"{abs(best - nearest):.3f} {'below' if nearest <= best else 'above'} the chosen one"
    return f"{words}, the best of them {where} on {counted(len(seeds), 'seed')}"
