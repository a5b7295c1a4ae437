"""A fair comparison as texts and tables: what to use, at which rate, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from ailora.lab.experiments.fair import Protocol, Search
from ailora.lab.experiments.store import Run, Store
from ailora.lab.experiments.wording import counted, metric_label, number_words
from ailora.lab.report.best_to_best import Against, Reported, best_to_best, reported_of
from ailora.lab.report.rate_curves import Curve, curve_of, rate_rows
from ailora.lab.report.row_scores import BLOCKS
from ailora.lab.report.score_lines import Setting, baselines_of, settings_of
from ailora.lab.report.text_tables import Rows
from ailora.lab.statistics import ENOUGH, FEWEST, spread, student_interval
from ailora.lab.tasks.classification.metrics import REGRESSION

SCORE_HEADER = [
    *("method", "verdict", "lr", "test score", "minus baseline"),
    *("95 %, seeds and rows", "95 %, seeds", "p (Holm)", "could see"),
]


@dataclass(frozen=True, kw_only=True)
class FairPart:
    """The settings of one model and task.

    Attributes:
        title: Task and model.
        metric: The score, as tables call it.
        about: Number of rows, and the settings that all share, in a sentence; empty before a run
            is finished.
        curves: Curves of the settings that have a rate, those of unfinished searches among them.
        reported: Test scores by label and seed.
        against: Differences to the baseline by label; empty where there is no baseline.
        baseline: Label of the baseline; empty before it has a reported run.
        chance: What one answer to every row scores, and that answer in words; None where that means
            nothing.
        failed: Number of reported runs that failed, by label; without those that have none.
        without: Settings that have no rate or no reported run, and why.
        waiting: Settings whose runs are not all done, and how many they need next.
    """

    title: str
    metric: str
    about: str
    curves: Sequence[Curve]
    reported: Mapping[str, Mapping[int, Reported]]
    against: Mapping[str, Against]
    baseline: str
    chance: tuple[float, str] | None
    failed: Mapping[str, int]
    without: Sequence[str]
    waiting: Sequence[str]

    @property
    def advice(self) -> list[str]:
        """What to use, at which rate, and how sure that is: the first sentences to read."""
        words = self._advice()
        if not self.waiting:
            return words
        return [f"Not done yet: {', '.join(self.waiting)}.", *(f"So far: {one}" for one in words)]

    @property
    def by_rows(self) -> str:
        """What the interval over seeds and rows takes as chance, or why there is none."""
        compared = [one for one in self.against.values() if one.estimate is not None]
        lacking = [label for label, one in self.against.items() if one in compared and not one.both]
        if compared and len(lacking) == len(compared):
            return (
                f"There is none here ({self._why_no_rows(compared)}): what is said holds for these "
                "test rows alone."
            )
        words = (
            "Both drawn at random (two-way variance with Hillis's degrees of freedom), so that it "
            "holds for other rows of the kind. A score that is no mean over rows is computed again "
            f"without each of {BLOCKS} blocks of rows."
        )
        return words + f" Over seeds alone: {', '.join(lacking)}." * bool(lacking)

    @property
    def score_rows(self) -> Rows:
        """One row per setting, best mean first: test score, difference and how sure it is."""
        order = sorted(self.reported, key=lambda label: -_mean(self.reported[label]))
        return [self._score_row(label) for label in order]

    @property
    def rate_rows(self) -> Rows:
        """One row per setting: its rate beside the baseline's, and how much it matters."""
        return rate_rows(self.curves, self.baseline)

    @property
    def notes(self) -> list[str]:
        """What is to be known of single settings."""
        curves = [f"{curve.label}: {curve.note}." for curve in self.curves if curve.note]
        failed = [
            f"{label}: {counted(number, 'reported run')} failed at its best rate: not counted."
            for label, number in self.failed.items()
        ]
        return [*curves, *failed, *self.without]

    def _advice(self) -> list[str]:
        if not self.reported:
            return ["no setting has a reported run."] if self.waiting else []
        if not self.baseline:
            best = max(self.reported, key=lambda label: _mean(self.reported[label]))
            return [
                f"{best} has the best mean, at learning rate {self._rate(best)}.",
                "How sure that is: nothing is tested before the baseline is reported.",
                self._curve(best).words,
            ]
        shown = [label for label, one in self.against.items() if one.shown]
        better = [label for label in shown if (self.against[label].estimate or 0.0) > 0]
        best = max(better, key=lambda one: self.against[one].estimate or 0.0, default=self.baseline)
        words = [
            self._choice(best),
            f"How sure that is: {self._why_better(best) if better else self._why_not()}",
        ]
        others = [label for label in better if label != best]
        worse = [label for label in shown if label not in better]
        for labels, how in ((others, "Also above"), (worse, "Shown to be below")):
            words += [f"{how} {self.baseline}: {', '.join(labels)}."] * bool(labels)
        doubts = [self._doubts(label) for label in dict.fromkeys((best, self.baseline))]
        curve = self._curve(best)
        return [*filter(None, (*words, *doubts, curve.sure)), curve.words]

    def _choice(self, best: str) -> str:
        """What to use; or that nothing was learned that a choice could rest on."""
        if self.chance is None or _is_above(self.reported[best], self.chance[0]):
            return f"Use {best} at learning rate {self._rate(best)}."
        return (
            f"No choice yet: {best} at learning rate {self._rate(best)} is not shown to be above "
            f"{self.chance[1]} ({self.chance[0]:.3f}); train on more rows or for more epochs, or "
            "take a larger model."
        )

    def _doubts(self, label: str) -> str:
        """What speaks against a method's score or rate, in a sentence; empty for nothing."""
        doubts, failed = [self._curve(label).doubt], self.failed.get(label, 0)
        if failed:
            runs = counted(failed + len(self.reported[label]), "reported run")
            doubts.append(f"{failed} of {runs} failed at that rate and {_is(failed)} not counted")
        said = "; ".join(filter(None, doubts))
        return f"Doubts about {label}: {said}." if said else ""

    def _why_better(self, label: str) -> str:
        one = self.against[label]
        bounds = one.judged.interval() if one.judged else ()
        interval = " (95 % interval {:+.3f} to {:+.3f})".format(*bounds) if bounds else ""
        return (
            f"its {self.metric} is {one.estimate:.3f} above that of {self.baseline}{interval}, "
            f"each at its own best rate, over {counted(one.n, 'seed')} (p {_p(one)}, corrected "
            f"for {counted(one.comparisons, 'comparison')})."
        )

    def _why_not(self) -> str:
        n = min((one.n for one in self.against.values()), default=0)
        if not self.against:
            return "nothing was compared with it."
        if n < ENOUGH:
            return f"{counted(n, 'seed')} cannot show another to be better; give {ENOUGH} or more."
        seen = [one.smallest for one in self.against.values() if one.smallest is not None]
        size = (
            f"; one that is better by {max(seen):.3f} would be, in 80 of 100 such comparisons"
            if seen
            else ""
        )
        return f"no other method was shown to be better over {n} seeds{size}."

    def _why_no_rows(self, compared: Sequence[Against]) -> str:
        if max(one.n for one in compared) < FEWEST:
            return f"fewer than {FEWEST} seeds"
        kept = all(one.rows is not None for own in self.reported.values() for one in own.values())
        return "no row differs" if kept else "nothing is kept of single rows"

    def _curve(self, label: str) -> Curve:
        return next(curve for curve in self.curves if curve.label == label)

    def _rate(self, label: str) -> str:
        return number_words(self._curve(label).best)

    def _score_row(self, label: str) -> list[str]:
        own = spread({seed: one.score for seed, one in self.reported[label].items()}, what=label)
        score = f"{own.mean:.4f}" + ("" if own.sd is None else f" ± {own.sd:.4f}")
        place, one = [self._rate(label), f"{score} ({own.n})"], self.against.get(label)
        if one is None or one.estimate is None:
            verdict = "baseline" if label == self.baseline else "-"
            return [label, verdict, *place, *["-"] * (len(SCORE_HEADER) - 4)]
        intervals = [
            "-" if found is None else "{:+.3f} to {:+.3f}".format(*found.interval())
            for found in (one.both, one.seeds)
        ]
        seen = "-" if one.smallest is None else f"{one.smallest:.3f}"
        return [
            *(label, one.verdict.split(";")[0], *place, f"{one.estimate:+.4f}", *intervals),
            *(_p(one).removeprefix("= "), seen),
        ]


def fair_parts(searches: Sequence[Search], protocol: Protocol, store: Store) -> list[FairPart]:
    """The parts of a fair report, one per model and task.

    Where methods meet at several ranks, or at several values of any other setting, each of those is
    a part with a baseline of its own.

    Args:
        searches: What `ailora.lab.experiments.fair.fair` returned.
        protocol: What was compared.
        store: Where the runs are; the rows of their test scores are read there.
    """
    named = settings_of([{"config": asdict(search.setting)} for search in searches])
    pairs = list(zip(named, searches, strict=True))
    grouped: dict[tuple[str, str], list[tuple[Setting, Search]]] = {}
    for setting, search in pairs:
        where = (search.setting.task, search.setting.model)
        grouped.setdefault(where, []).append((setting, search))
    return [
        _part(", ".join(filter(None, (f"{task} with {model}", variant))), own, protocol, store)
        for (task, model), found in grouped.items()
        for variant, own in _by_variant(found).items()
    ]


def _by_variant(
    found: Sequence[tuple[Setting, Search]],
) -> dict[str, list[tuple[Setting, Search]]]:
    """Settings that differ in their method alone; all together where no methods meet so."""
    if len({setting.rank for setting, _ in found}) == 1:
        found = [(setting._replace(rank=None), search) for setting, search in found]
    grouped: dict[str, list[tuple[Setting, Search]]] = {}
    for setting, search in found:
        grouped.setdefault(setting.variant, []).append((setting, search))
    if all(len(own) == 1 for own in grouped.values()):
        return {"": list(found)}
    return {
        variant: [(Setting(setting.method), search) for setting, search in own]
        for variant, own in grouped.items()
    }


def _part(
    title: str, named: Sequence[tuple[Setting, Search]], protocol: Protocol, store: Store
) -> FairPart:
    runs = {setting.label: _at_best(search, protocol) for setting, search in named}
    good = [(setting, search) for setting, search in named if runs[setting.label]]
    reported = {
        setting.label: {
            seed: reported_of(run, store.path / search.ends[search.best or 0.0][seed].run_id)
            for seed, run in runs[setting.label].items()
        }
        for setting, search in good
    }
    baseline = _baseline(named, reported)
    scored = [run for _, search in named for run in _finished(search)]
    curves = (curve_of(one.label, one.method, search, protocol, store) for one, search in named)
    return FairPart(
        title=title,
        metric=metric_label(scored[0]["data"]) if scored else "",
        about=_about(scored) if scored else "",
        curves=[curve for curve in curves if curve is not None],
        reported=reported,
        against=best_to_best(reported, baseline) if baseline else {},
        baseline=baseline,
        chance=_chance(scored[0]) if scored else None,
        failed={
            setting.label: lost for setting, search in good if (lost := _failed(search, protocol))
        },
        without=[
            f"{setting.label}: not reported: {search.stopped or 'every reported seed failed'}."
            for setting, search in named
            if not (search.missing or runs[setting.label])
        ],
        waiting=[
            f"{setting.label} ({counted(_left(search, protocol), 'more run')} at least)"
            for setting, search in named
            if search.missing
        ],
    )


def _finished(search: Search) -> list[Run]:
    """Its finished runs, at every rate."""
    ends = (end for by_seed in search.ends.values() for end in by_seed.values())
    return [end.result for end in ends if end.result is not None]


def _at_best(search: Search, protocol: Protocol) -> dict[int, Run]:
    """The reported runs that finished, by seed."""
    if search.best is None:
        return {}
    at_best = search.ends[search.best]
    found = {seed: at_best[seed].result for seed in protocol.report if seed in at_best}
    return {seed: run for seed, run in found.items() if run is not None}


def _left(search: Search, protocol: Protocol) -> int:
    """The runs that a setting still needs, if its grid widens no more."""
    return len(search.missing) + (search.best is None) * len(protocol.report)


def _failed(search: Search, protocol: Protocol) -> int:
    """The number of reported runs that failed at the chosen rate."""
    at_best = search.ends.get(search.best or 0.0, {})
    return sum(seed in at_best and at_best[seed].result is None for seed in protocol.report)


def _baseline(
    named: Sequence[tuple[Setting, Search]], reported: Mapping[str, Mapping[int, Reported]]
) -> str:
    """LoRA; without it the method named first. Empty before its first reported run."""
    settings = [setting for setting, _ in named]
    plain = list(baselines_of(settings).values())
    alone = [setting for setting in settings if setting.method == "lora"]
    waiting = {setting.label for setting, search in named if search.missing}
    order = [one.label for one in (*plain, *alone, *settings)]
    first = next((label for label in order if label in reported or label in waiting), "")
    return first if first in reported else ""


def _about(runs: Sequence[Run]) -> str:
    """Rows, and the settings that matter most, as far as all runs share them."""
    data, config = runs[0]["data"], runs[0]["config"]
    said = {
        "rank": "" if config.get("ranks") else f"rank {config['rank']}",
        "batch_size": f"{counted(config['batch_size'], 'row')} per step",
        "epochs": f"{number_words(config['epochs'])} epoch{'s' * (config['epochs'] != 1)}",
        "head_lr": "the head at the method's own rate"
        if config.get("head_lr") is None
        else f"the head at {number_words(config['head_lr'])}",
    }
    alike = [
        words
        for name, words in said.items()
        if words and all(run["config"].get(name) == config.get(name) for run in runs)
    ]
    chance = _chance(runs[0])
    return (
        f"{counted(data['train'], 'row')} to train on, {data['selection']:,} to choose rates by, "
        f"{data['test']:,} to test on; {', '.join(alike)}."
        + (f" Score of {chance[1]}: {chance[0]:.4f}." if chance else "")
    )


def _chance(run: Run) -> tuple[float, str] | None:
    if run["majority"] is not None:
        return float(run["majority"]), "always answering the commonest class"
    if run["data"]["metric"] in REGRESSION:
        return 0.0, "always answering one number"
    return None


def _is_above(by_seed: Mapping[int, Reported], score: float) -> bool:
    """Whether the mean is shown to be above a score, over seeds at 95 %."""
    above = [one.score - score for one in by_seed.values()]
    interval = student_interval(above)
    return (fmean(above) if interval is None else interval[0]) > 0


def _mean(by_seed: Mapping[int, Reported]) -> float:
    return fmean(one.score for one in by_seed.values())


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _p(one: Against) -> str:
    if one.corrected is None:
        return "-"
    return "< 0.001" if one.corrected < 0.001 else f"= {one.corrected:.3f}"
