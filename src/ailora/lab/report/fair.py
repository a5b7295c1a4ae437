"""A fair comparison as texts and tables: what to use, at which rate, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ailora.lab.experiments.fair import Protocol, Search, mean_score, stages
from ailora.lab.experiments.store import Run, Store, Stored
from ailora.lab.experiments.wording import counted, metric_label, number_words
from ailora.lab.report.best_to_best import Against, Reported, best_to_best, reported_of
from ailora.lab.report.score_lines import baselines_of, settings_of
from ailora.lab.report.text_tables import Rows
from ailora.lab.statistics import ENOUGH, spread

_ROUNDING = 1e-9
POINT = 0.01  # rates whose mean score is this close to the best are as good as it
SCORE_HEADER = [
    *("method", "lr", "test score", "minus baseline", "95 %, seeds"),
    *("95 %, seeds and rows", "p (Holm)", "could see", "verdict"),
]
RATE_HEADER = [
    *("method", "best lr", "x baseline's", "tried", "within a point"),
    *("at twice the rate", "at half the rate"),
]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Selection score over the rates of one setting.

    Attributes:
        label: How tables name the setting.
        method: Its method.
        best: The chosen rate.
        points: Rate, and mean, lowest and highest score over the choosing seeds, by rate; minus
            infinity where a seed diverged. Without the rates that halving dropped.
        tried: Number of rates that were tried, with those.
        note: What is to be known of its search; empty where nothing is.
    """

    label: str
    method: str
    best: float
    points: Sequence[tuple[float, float, float, float]]
    tried: int
    note: str

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

    @property
    def _best_mean(self) -> float:
        return next(mean for rate, mean, *_ in self.points if rate == self.best)


@dataclass(frozen=True, kw_only=True)
class FairPart:
    """The settings of one model and task.

    Attributes:
        title: Task and model.
        metric: The score, as tables call it.
        curves: Curves of the settings that have a rate and reported runs.
        reported: Test scores by label and seed.
        against: Differences to the baseline by label; empty where there is no baseline.
        baseline: Label of the baseline; empty where there is none.
        without: Settings that have no rate or no reported run, and why.
    """

    title: str
    metric: str
    curves: Sequence[Curve]
    reported: Mapping[str, Mapping[int, Reported]]
    against: Mapping[str, Against]
    baseline: str
    without: Sequence[str]

    @property
    def advice(self) -> list[str]:
        """What to use, at which rate, and how sure that is: the first sentences to read."""
        if not self.curves:
            return ["No setting has a rate to report."]
        better = [label for label, one in self.against.items() if one.shown and _positive(one)]
        if better:
            best = max(better, key=lambda label: self.against[label].estimate or 0.0)
            words = [f"Use {best} at learning rate {number_words(self._curve(best).best)}: "]
            words[0] += f"{self.metric} {_difference(self.against[best])} above {self.baseline}, "
            words[0] += f"each at its own best rate (p {_p(self.against[best])} after Holm)."
            others = [label for label in better if label != best]
            if others:
                words.append(f"Also above {self.baseline}: {', '.join(others)}.")
            return [*words, self._about_rate(best)]
        if not self.baseline:
            best = max(self.reported, key=lambda label: _mean(self.reported[label]))
            return [
                f"{best} has the best mean, at learning rate "
                f"{number_words(self._curve(best).best)}; without LoRA among the methods nothing "
                "is tested.",
                self._about_rate(best),
            ]
        rate = number_words(self._curve(self.baseline).best)
        use = f"Use {self.baseline} at learning rate {rate}: {self._unsure()}"
        return [use, self._about_rate(self.baseline)]

    @property
    def score_rows(self) -> Rows:
        """One row per setting, best mean first: test score, difference and how sure it is."""
        order = sorted(self.reported, key=lambda label: -_mean(self.reported[label]))
        return [self._score_row(label) for label in order]

    @property
    def rate_rows(self) -> Rows:
        """One row per setting: its rate beside the baseline's, and how much it matters."""
        base = self._curve(self.baseline).best if self.baseline else None
        return [
            [
                curve.label,
                number_words(curve.best),
                f"{curve.best / base:.2g}" if base else "-",
                f"{number_words(curve.points[0][0])} to {number_words(curve.points[-1][0])} "
                f"({curve.tried})",
                f"{number_words(curve.plateau[0])} to {number_words(curve.plateau[1])} "
                f"(x {curve.plateau[1] / curve.plateau[0]:.2g})",
                _lost(curve.lost(2)),
                _lost(curve.lost(1 / 2)),
            ]
            for curve in self.curves
        ]

    @property
    def notes(self) -> list[str]:
        """What is to be known of single settings."""
        return [f"{curve.label}: {curve.note}." for curve in self.curves if curve.note] + list(
            self.without
        )

    def _curve(self, label: str) -> Curve:
        return next(curve for curve in self.curves if curve.label == label)

    def _about_rate(self, label: str) -> str:
        curve = self._curve(label)
        low, high = curve.plateau
        words = {2.0: "a rate twice too large", 0.5: "one twice too small"}
        lost = " and ".join(f"{_lost(curve.lost(f))} at {said}" for f, said in words.items())
        return (
            f"Rates from {number_words(low)} to {number_words(high)} are within a point of its "
            f"best on the selection rows; it loses {lost}."
        )

    def _unsure(self) -> str:
        n = min((one.n for one in self.against.values()), default=0)
        if not self.against:
            return "nothing was compared with it."
        if n < ENOUGH:
            return f"{counted(n, 'seed')} cannot show another to be better; give {ENOUGH} or more."
        seen = [one.smallest for one in self.against.values() if one.smallest is not None]
        size = f"; a true difference of {max(seen):.3f} would have been, in 80 of 100" * bool(seen)
        return f"no other method was shown to be above it over {n} seeds{size}."

    def _score_row(self, label: str) -> list[str]:
        own = spread({seed: one.score for seed, one in self.reported[label].items()}, what=label)
        score = f"{own.mean:.4f}" + ("" if own.sd is None else f" ± {own.sd:.4f}")
        row = [label, number_words(self._curve(label).best), f"{score} ({own.n})"]
        one = self.against.get(label)
        if one is None or one.estimate is None:
            return [*row, *["-"] * (len(SCORE_HEADER) - 4), "baseline" * (label == self.baseline)]
        intervals = [
            "-" if found is None else "{:+.3f} to {:+.3f}".format(*found.interval())
            for found in (one.seeds, one.both)
        ]
        seen = "-" if one.smallest is None else f"{one.smallest:.3f}"
        return [
            *row,
            f"{one.estimate:+.4f}",
            *intervals,
            _p(one).removeprefix("= "),
            seen,
            one.verdict.split(";")[0],
        ]


def fair_parts(searches: Sequence[Search], protocol: Protocol, store: Store) -> list[FairPart]:
    """The parts of a fair report, one per model and task.

    Args:
        searches: What `ailora.lab.experiments.fair.fair` returned.
        protocol: What was compared.
        store: Where the runs are; the rows of their test scores are read there.
    """
    grouped: dict[tuple[str, str], list[Search]] = {}
    for search in searches:
        setting = search.setting
        grouped.setdefault((setting.task, setting.model), []).append(search)
    return [_part(f"{t} with {m}", own, protocol, store) for (t, m), own in grouped.items()]


def _part(title: str, searches: Sequence[Search], protocol: Protocol, store: Store) -> FairPart:
    good = [(search, runs) for search in searches if (runs := _at_best(search, protocol))]
    # By the first runs alone: the label is of what differs between settings.
    named = settings_of([next(iter(runs.values())) for _, runs in good])
    if len({setting.rank for setting in named}) == 1:
        named = [setting._replace(rank=None) for setting in named]
    reported = {
        setting.label: {
            seed: reported_of(run, store.path / search.ends[search.best or 0.0][seed].run_id)
            for seed, run in runs.items()
        }
        for setting, (search, runs) in zip(named, good, strict=True)
    }
    plain = list(dict.fromkeys(baselines_of(named).values()))
    alone = [setting for setting in named if setting.method == "lora"]
    baseline = (plain or alone)[0].label if len(plain or alone) >= 1 else ""
    any_run = next(iter(good[0][1].values())) if good else None
    return FairPart(
        title=title,
        metric=metric_label(any_run["data"]) if any_run else "",
        curves=[
            _curve(setting.label, search, protocol)
            for setting, (search, _) in zip(named, good, strict=True)
        ],
        reported=reported,
        against=best_to_best(reported, baseline) if baseline else {},
        baseline=baseline,
        without=[_why(search) for search in searches if not _at_best(search, protocol)],
    )


def _at_best(search: Search, protocol: Protocol) -> dict[int, Run]:
    """The reported runs that finished, by seed."""
    if search.best is None:
        return {}
    at_best = search.ends[search.best]
    found = {seed: at_best[seed].result for seed in protocol.report if seed in at_best}
    return {seed: run for seed, run in found.items() if run is not None}


def _curve(label: str, search: Search, protocol: Protocol) -> Curve:
    kept = [rate for rate in search.rates if rate not in search.dropped]
    points = [(rate, *_levels(search.ends[rate], protocol.choose)) for rate in kept]
    notes = [search.stopped, _lost_seeds(search, protocol), _halved(search, protocol)]
    return Curve(
        label=label,
        method=search.setting.method,
        best=search.best or math.nan,
        points=points,
        tried=len(search.rates),
        note="; ".join(filter(None, notes)),
    )


def _levels(by_seed: Mapping[int, Stored], seeds: Sequence[int]) -> tuple[float, float, float]:
    scores = [score for seed in seeds if (score := mean_score(by_seed, [seed])) is not None]
    return fmean(scores), min(scores), max(scores)


def _lost_seeds(search: Search, protocol: Protocol) -> str:
    lost = len(protocol.report) - len(_at_best(search, protocol))
    return f"{counted(lost, 'reported seed')} failed at its best rate and is not counted" * bool(
        lost
    )


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
    return (
        f"{words}; on {counted(len(seeds), 'seed')} the best of those was {best - nearest:+.3f} "
        "below the chosen one: where seeds differ by more, the better rate may be lost"
    )


def _why(search: Search) -> str:
    label = search.setting.method
    return f"{label}: not reported: {search.stopped or 'every reported seed failed'}."


def _positive(one: Against) -> bool:
    return one.estimate is not None and one.estimate > 0


def _mean(by_seed: Mapping[int, Reported]) -> float:
    return fmean(one.score for one in by_seed.values())


def _difference(one: Against) -> str:
    judged = one.judged
    interval = " [{:+.3f}, {:+.3f}]".format(*judged.interval()) if judged else ""
    return f"{one.estimate:+.3f}{interval}"


def _p(one: Against) -> str:
    if one.corrected is None:
        return "-"
    return "< 0.001" if one.corrected < 0.001 else f"= {one.corrected:.3f}"


def _lost(value: float | None) -> str:
    if value is None:
        return "not tried"
    return "all (diverges)" if math.isinf(value) else f"{value:.3f}"
