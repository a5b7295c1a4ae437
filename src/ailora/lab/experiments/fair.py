"""The fair protocol: each setting's own rate is searched on some seeds and reported on others.

Rates lie a quarter of a decade apart. Each setting begins with five around the rate it names and
goes on while its best, by the mean selection score over the choosing seeds, has fewer than two
rates on either side; where all score the same, nothing is learned yet, and it goes on upwards.
Then it is run at that rate with the reporting seeds, which chose nothing.

`next_runs` says which runs are wanted, given those there are. So nothing but the runs has to be
remembered: a second call finds them in the store and asks for no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from ailora.errors import UserError
from ailora.lab.experiments.grid import distinct_runs
from ailora.lab.experiments.store import Stored
from ailora.lab.settings import RunConfig

START = 5  # rates that each setting begins with
BESIDE = 2  # rates on each side of the best: half a decade, so that twice the rate lies within
MOST = 17  # rates of a setting, four decades; a search that is still moving then is stopped
CHOOSE, REPORT = (0, 1), (2, 3, 4, 5, 6)  # seeds
_PER_DECADE = 4

Ends = Mapping[float, Mapping[int, Stored]]  # how a setting's runs ended, by rate and seed
Do = Callable[[Sequence[RunConfig]], Sequence[tuple[RunConfig, Stored]]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is to be compared, and on which seeds.

    Attributes:
        settings: Each setting that is compared; ``lr`` is the middle of its first rates, ``seed``
            does not count.
        choose: Seeds whose selection scores choose the rate.
        report: Seeds whose test scores are reported.
        halving: Run the second seed, and then twice as many each time, at the better half of the
            rates alone.

    Raises:
        UserError: A seed that chooses and reports, no seed, or a setting twice.
    """

    settings: Sequence[RunConfig]
    choose: Sequence[int] = CHOOSE
    report: Sequence[int] = REPORT
    halving: bool = False

    def __post_init__(self) -> None:
        for name in ("settings", "choose", "report"):  # so that equal protocols compare equal
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, seeds in (("choosing", self.choose), ("reporting", self.report)):
            if not seeds or len(set(seeds)) < len(seeds):
                raise UserError(f"{name} seeds {list(seeds)}: give at least one, each once")
        both = sorted(set(self.choose) & set(self.report))
        if both:
            raise UserError(
                f"seed {both[0]} chooses the rate and is reported: scores that chose a rate "
                "flatter it; give other seeds"
            )
        if len({setting_key(one) for one in self.settings}) < len(self.settings):
            raise UserError("a setting is given twice; give each method or variant once")


@dataclass(frozen=True, kw_only=True)
class Search:
    """One setting's search for its rate.

    Attributes:
        setting: The setting.
        ends: How its runs ended, by rate and seed.
        best: The chosen rate; None before one is settled, and where none can be.
        rates: Rates that were tried, ascending.
        dropped: Rates that halving gave up before the last seed.
        stopped: Why the search ended without two rates on each side; empty where it did not.
        missing: Runs that it needs next and that nobody has done; empty where it is done.
    """

    setting: RunConfig
    ends: Ends
    best: float | None
    rates: Sequence[float]
    dropped: Sequence[float] = ()
    stopped: str = ""
    missing: Sequence[RunConfig] = ()


def rate_at(place: int) -> float:
    """The rate so many quarters of a decade from 1, to three digits.

    >>> [rate_at(place) for place in (-12, -11, -10, -9, -8)]
    [0.001, 0.00178, 0.00316, 0.00562, 0.01]
    """
    return float(f"{10 ** (place / _PER_DECADE):.3g}")


def first_rates(lr: float) -> list[float]:
    """The rates that a search around this one begins with."""
    middle = _place(lr)
    return [rate_at(middle + step) for step in range(-(START // 2), START // 2 + 1)]


def setting_key(setting: RunConfig) -> str:
    """What names a setting: all of it but the rate and the seed."""
    return json.dumps(asdict(replace(setting, lr=1.0, seed=0)), sort_keys=True)


def stages(choose: Sequence[int], *, halving: bool) -> list[list[int]]:
    """The choosing seeds in the order in which rates are dropped between them.

    >>> stages((0, 1, 2, 3), halving=True)
    [[0], [1], [2, 3]]
    """
    if not halving:
        return [list(choose)]
    found, done = [[choose[0]]], 1
    while done < len(choose):
        found.append(list(choose[done : 2 * done]))
        done *= 2
    return found


def next_runs(protocol: Protocol, setting: RunConfig, ends: Ends) -> tuple[list[RunConfig], Search]:
    """The runs that a setting needs next, and its search so far; none when it is done.

    Raises:
        UserError: A choosing run failed for another reason than diverging: no rate can be chosen.
    """
    places = {_place(rate) for rate in first_rates(setting.lr)}
    while True:
        runs, dropped = _unscored(protocol, setting, sorted(map(rate_at, places)), ends)
        rates = sorted(map(rate_at, places))
        if runs:
            return runs, Search(setting=setting, ends=ends, best=None, rates=rates)
        # Of these rates alone, so that a later call takes the same way as the first.
        scored = {rate: ends[rate] for rate in rates}
        best = best_rate(scored, protocol.choose)
        wanted = _beside(places, best) or _above_alike(places, scored, protocol.choose)
        if not wanted or len(places | wanted) > MOST:
            break
        places |= wanted
    stopped = f"its best rate still lay at the edge of {len(places)} rates" if wanted else ""
    if best is None:
        stopped = f"it diverged at each of {len(places)} rates"
    search = Search(
        setting=setting, ends=ends, best=best, rates=rates, dropped=dropped, stopped=stopped
    )
    if best is None:
        return [], search
    at_best = ends.get(best, {})
    left = [seed for seed in protocol.report if seed not in at_best]
    return [replace(setting, lr=best, seed=seed) for seed in left], search


def best_rate(ends: Ends, choose: Sequence[int]) -> float | None:
    """The rate of the best mean selection score, of those at which every choosing seed finished.

    Of equal rates it is the middle one: it lies furthest from where scores fall. None where there
    is none.
    """
    means = {rate: mean_score(ends[rate], choose) for rate in sorted(ends)}
    finite = {rate: mean for rate, mean in means.items() if mean is not None and mean > -math.inf}
    tied = [rate for rate, mean in finite.items() if mean == max(finite.values())]
    return tied[(len(tied) - 1) // 2] if tied else None


def mean_score(by_seed: Mapping[int, Stored], seeds: Sequence[int]) -> float | None:
    """Mean selection score over these seeds, minus infinity if one diverged; None if one lacks."""
    if any(seed not in by_seed for seed in seeds):
        return None
    return fmean(_score(by_seed[seed]) for seed in seeds)


def fair(protocol: Protocol, do: Do) -> list[Search]:
    """Do what the protocol asks for, round after round.

    Args:
        protocol: What is compared.
        do: Does runs and says how each ended. Those that it leaves out are asked for again as
            long as it does any; what is then still missing is said in each search.

    Returns:
        The search of each setting, in their order, with the reported runs among its ends.

    Raises:
        UserError: As `next_runs`.
    """
    ends: list[dict[float, dict[int, Stored]]] = [{} for _ in protocol.settings]
    places = {setting_key(one): index for index, one in enumerate(protocol.settings)}
    while True:
        asked = [
            next_runs(protocol, setting, own)
            for setting, own in zip(protocol.settings, ends, strict=True)
        ]
        runs = distinct_runs(run for wanted, _ in asked for run in wanted)
        done = do(runs) if runs else []
        if not done:
            return [replace(search, missing=tuple(wanted)) for wanted, search in asked]
        for config, end in done:
            ends[places[setting_key(config)]].setdefault(config.lr, {})[config.seed] = end


def _unscored(
    protocol: Protocol, setting: RunConfig, rates: Sequence[float], ends: Ends
) -> tuple[list[RunConfig], list[float]]:
    """The choosing runs that are missing at these rates, and the rates that were dropped."""
    alive, dropped, seen = list(rates), list[float](), list[int]()
    for seeds in stages(protocol.choose, halving=protocol.halving):
        if seen:
            means = {rate: mean_score(ends[rate], seen) for rate in alive}
            ranked = sorted(alive, key=lambda rate: means[rate] or 0.0, reverse=True)
            dropped += ranked[math.ceil(len(ranked) / 2) :]
            alive = sorted(ranked[: math.ceil(len(ranked) / 2)])
        missing = [
            replace(setting, lr=rate, seed=seed)
            for seed in seeds  # seeds outermost: half-way all rates have half of the seeds
            for rate in alive
            if seed not in ends.get(rate, {})
        ]
        if missing:
            return missing, dropped
        seen += seeds
    return [], sorted(dropped)


def _beside(places: set[int], best: float | None) -> set[int]:
    """The rates still to be tried beside the best; below all, where every run diverged."""
    if best is None:
        return {min(places) - step for step in range(1, BESIDE + 1)}
    middle = _place(best)
    return {middle + step for step in range(-BESIDE, BESIDE + 1)} - places


def _above_alike(places: set[int], ends: Ends, choose: Sequence[int]) -> set[int]:
    """The next rates above, where all score the same: too low ones leave the model as it began."""
    scores = {mean_score(by_seed, choose) for by_seed in ends.values()} - {None}
    return {max(places) + step for step in range(1, BESIDE + 1)} if len(scores) == 1 else set()


def _place(rate: float) -> int:
    return round(_PER_DECADE * math.log10(rate))


def _score(end: Stored) -> float:
    if end.result is not None:
        return float(end.result["metrics"]["selection"][end.result["data"]["metric"]])
    if end.failure is not None and end.failure.kind == "diverged":
        return -math.inf
    why = end.failure.reason if end.failure else end.damage or f"it is {end.state}"
    raise UserError(
        f"{end.run_id} did not finish ({why}), so no rate can be chosen; mend that and give the "
        "same command again"
    )
