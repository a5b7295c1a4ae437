"""What a fair comparison says: what to use, at which rate, how sure that is, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ailora.lab.experiments.wording import counted, number_words
from ailora.lab.report.best_to_best import Against, Reported
from ailora.lab.report.rate_curves import Curve, rate_rows
from ailora.lab.report.row_scores import BLOCKS
from ailora.lab.report.text_tables import Rows
from ailora.lab.statistics import ENOUGH, FEWEST, spread, student_interval

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
