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
from ailora.lab.statistics import ENOUGH, FEWEST, spread

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
            is reported.
        curves: Curves of the settings that have a rate and reported runs.
        reported: Test scores by label and seed.
        against: Differences to the baseline by label; empty where there is no baseline.
        baseline: Label of the baseline; empty where there is none.
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
        return [f"{curve.label}: {curve.note}." for curve in self.curves if curve.note] + list(
            self.without
        )

    def _advice(self) -> list[str]:
        if not self.curves:
            return ["no setting has a reported run."] if self.waiting else []
        if not self.baseline:
            best = max(self.reported, key=lambda label: _mean(self.reported[label]))
            return [
                f"{best} has the best mean, at learning rate {self._rate(best)}.",
                "How sure that is: without LoRA among the methods nothing is tested.",
                self._curve(best).words,
            ]
        shown = [label for label, one in self.against.items() if one.shown]
        better = [label for label in shown if (self.against[label].estimate or 0.0) > 0]
        best = max(better, key=lambda one: self.against[one].estimate or 0.0, default=self.baseline)
        words = [
            f"Use {best} at learning rate {self._rate(best)}.",
            f"How sure that is: {self._why_better(best) if better else self._why_not()}",
        ]
        others = [label for label in better if label != best]
        worse = [label for label in shown if label not in better]
        for labels, how in ((others, "Also above"), (worse, "Shown to be below")):
            words += [f"{how} {self.baseline}: {', '.join(labels)}."] * bool(labels)
        return [*words, self._curve(best).words]

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
    settings = [setting for setting, _ in named]
    plain = list(dict.fromkeys(baselines_of(settings).values()))
    alone = [setting for setting in settings if setting.method == "lora"]
    baseline = next((one.label for one in plain or alone if one.label in reported), "")
    all_runs = [run for own in runs.values() for run in own.values()]
    curves = (curve_of(setting.label, setting.method, search, protocol) for setting, search in good)
    return FairPart(
        title=title,
        metric=metric_label(all_runs[0]["data"]) if all_runs else "",
        about=_about(all_runs) if all_runs else "",
        curves=[curve for curve in curves if curve is not None],
        reported=reported,
        against=best_to_best(reported, baseline) if baseline else {},
        baseline=baseline,
        without=[
            words
            for setting, search in named
            if (words := _lacking(setting.label, search, protocol, len(runs[setting.label])))
        ],
        waiting=[
            f"{setting.label} ({counted(len(search.missing), 'more run')} at least)"
            for setting, search in named
            if search.missing
        ],
    )


def _at_best(search: Search, protocol: Protocol) -> dict[int, Run]:
    """The reported runs that finished, by seed."""
    if search.best is None:
        return {}
    at_best = search.ends[search.best]
    found = {seed: at_best[seed].result for seed in protocol.report if seed in at_best}
    return {seed: run for seed, run in found.items() if run is not None}


def _lacking(label: str, search: Search, protocol: Protocol, finished: int) -> str:
    """What of a setting is not reported although nothing more is to be done, and why."""
    lost = len(protocol.report) - finished
    if search.missing or not lost:
        return ""
    if not finished:
        return f"{label}: not reported: {search.stopped or 'every reported seed failed'}."
    return f"{label}: {counted(lost, 'reported seed')} failed at its best rate: not counted."


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
    return (
        f"{counted(data['train'], 'row')} to train on, {data['selection']:,} to choose rates by, "
        f"{data['test']:,} to test on; {', '.join(alike)}."
    )


def _mean(by_seed: Mapping[int, Reported]) -> float:
    return fmean(one.score for one in by_seed.values())


def _p(one: Against) -> str:
    if one.corrected is None:
        return "-"
    return "< 0.001" if one.corrected < 0.001 else f"= {one.corrected:.3f}"
