"""Finished runs of several methods on one task, and what their scores allow to be said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ailora.errors import UserError
from ailora.html_table import html_table
from ailora.lab.experiments.wording import counted, metric_label, number_words
from ailora.lab.methods.variants import label_of, order_of, variant_of
from ailora.lab.statistics import ENOUGH, Paired, Spread, paired, spread

Run = dict[str, Any]  # the content of a run's result.json

BASELINE = "lora"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Finished runs of several methods on one task.

    Attributes:
        runs: The runs that are reported, each at its method's rate.
        failed: Runs that did not finish: their ``config`` and the ``error``.
        searched: With several rates, all runs, from which each method's rate was chosen.
        chosen: "fixed" if each method was tried at one rate, "selected" if each has its own best.
        rates: The rates that were tried, also those at which every run failed.

    Raises:
        UserError: There is no finished run, or two of one method with one seed.
    """

    runs: Sequence[Run]
    failed: Sequence[Run] = ()
    searched: Sequence[Run] = ()
    chosen: Literal["fixed", "selected"]
    rates: Sequence[float]

    def __post_init__(self) -> None:
        if not self.runs:
            reason = f"the first failed: {self.failed[0]['error']}" if self.failed else "none given"
            raise UserError(f"no finished run to report ({reason}); finish at least one")
        kept = Counter((method_of(run), run["config"]["seed"]) for run in self.runs)
        for (method, seed), number in kept.items():
            if number > 1:
                raise UserError(
                    f"runs: method {method!r} has seed {seed} more than once; report one run per "
                    "seed, at one rate per method"
                )

    @property
    def metric(self) -> str:
        """The headline metric."""
        return str(self.runs[0]["data"]["metric"])

    @property
    def metric_label(self) -> str:
        """The headline metric with the class that it is of, as tables call it."""
        return metric_label(self.runs[0]["data"])

    @property
    def title(self) -> str:
        """What was compared: model, task and metric."""
        config = self.runs[0]["config"]
        return f"{config['model']} on {config['task']}: {self.metric_label} on the test split"

    @property
    def notes(self) -> list[str]:
        """What belongs below the scores: the caveat, and what the metric is beside and of."""
        majority, scored = self.runs[0]["majority"], metric_words(self.runs[0]["data"])
        always = "" if majority is None else f"Always the commonest class: {majority:.4f}."
        which = f"{scored[:1].upper()}{scored[1:]}." if scored else ""
        return [note for note in (self.caveat, always, which) if note]

    @property
    def methods(self) -> list[str]:
        """The methods that have runs, in one fixed order."""
        present = {method_of(run) for run in self.runs}
        return sorted(present, key=order_of)

    @property
    def seeds(self) -> list[int]:
        """The seeds, sorted."""
        return sorted({run["config"]["seed"] for run in self.runs})

    def runs_of(self, method: str) -> list[Run]:
        """One method's runs by seed."""
        own = [run for run in self.runs if method_of(run) == method]
        return sorted(own, key=lambda run: int(run["config"]["seed"]))

    @property
    def caveat(self) -> str:
        """What may and what may not be concluded."""
        if self.chosen == "fixed":
            own = {run["config"]["lr"] for run in self.runs}
            one = f"all were trained at one learning rate, {number_words(min(own))}"
            return (
                f"No ranking of methods: {one if len(own) == 1 else 'each had one rate alone'}, "
                "and the order of the methods changes with the rate. For a fair comparison give "
                "several rates (--lr 1e-3,2e-3,4e-3,8e-3) and at least five seeds."
            )
        words = (
            "Each method is reported at its own best learning rate, chosen by its mean score on "
            "the selection split; the scores below are of the test split, which chose nothing."
        )
        if all(len(self._finished_at(method)) == 1 for method in self.methods):
            words = (
                "Each method is reported at its own best learning rate, which is the only one at "
                f"which it finished: every run {self._failed_rates()} failed."
            )
        fewest = min(len(self.runs_of(method)) for method in self.methods)
        if fewest < ENOUGH:
            words += (
                f" With {counted(fewest, 'seed')} nothing can be concluded about which is best."
            )
        return words + self._beyond_the_rates()

    def _repr_html_(self) -> str:
        header = ("method", self.metric, "seeds", "minus LoRA [95 % CI]", "lr")
        rows = [
            (
                name_of(one.method),
                one.score,
                str(one.spread.n),
                one.difference,
                number_words(one.rate),
            )
            for one in summarize(self)
        ]
        return html_table(header, rows, title=self.title, notes=self.notes)

    def _beyond_the_rates(self) -> str:
        """A warning of methods whose best rate may lie outside those that were tried."""
        cut = [method for method in self.methods if self._at_an_edge(method)]
        if not cut:
            return ""
        names = listed(map(name_of, cut))
        return (
            f" The best rate of {names} was the smallest or largest tried: a better one may lie "
            "beyond, so try a wider range."
        )

    def _finished_at(self, method: str) -> set[float]:
        """The rates at which a run of the method finished."""
        return {run["config"]["lr"] for run in self.searched if method_of(run) == method}

    def _failed_at(self, method: str) -> set[float]:
        """The rates at which a run of the method failed."""
        return {run["config"]["lr"] for run in self.failed if method_of(run) == method}

    def _failed_rates(self) -> str:
        """``at 1e+09``, or by method where they differ."""
        by_method = {
            name_of(method): ", ".join(map(number_words, sorted(rates)))
            for method in self.methods
            if (rates := self._failed_at(method) - self._finished_at(method))
        }
        if len(set(by_method.values())) == 1 and len(by_method) == len(self.methods):
            return f"at {next(iter(by_method.values()))}"
        return "; ".join(f"of {name} at {rates}" for name, rates in by_method.items())

    def _at_an_edge(self, method: str) -> bool:
        tried = self._finished_at(method) | self._failed_at(method) or self.rates
        return self.runs_of(method)[0]["config"]["lr"] in (min(tried), max(tried))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One method's test score over the seeds.

    Attributes:
        method: Name of the method.
        spread: Mean, standard deviation and number of seeds.
        rate: Learning rate of its runs.
        paired: Difference to LoRA with the same seeds; None for LoRA itself and without LoRA.
    """

    method: str
    spread: Spread
    rate: float
    paired: Paired | None = None

    @property
    def verdict(self) -> str:
        """What can be concluded from the difference to LoRA, in words."""
        return "" if self.paired is None else self.paired.verdict("LoRA")

    @property
    def score(self) -> str:
        """Mean and standard deviation over the seeds, as tables write them."""
        sd = self.spread.sd
        return f"{self.spread.mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}")

    @property
    def difference(self) -> str:
        """The difference to LoRA with its interval, as tables write it."""
        return difference_words(self.paired)


def difference_words(pair: Paired | None) -> str:
    """A paired difference with its interval, as tables write it."""
    if pair is None or pair.difference is None:
        return "-"
    if pair.student is None:
        return _signed(pair.difference, 4)
    low, high = pair.student
    return f"{_signed(pair.difference, 4)} [{_signed(low, 3)}, {_signed(high, 3)}]"


def summarize(comparison: Comparison) -> list[Summary]:
    """A summary of every method, in the comparison's order."""
    scores = {method: scores_by_seed(comparison, method) for method in comparison.methods}
    against = paired(scores, BASELINE) if BASELINE in scores else {}
    return [
        Summary(
            method=method,
            spread=spread(own, what=method),
            rate=float(comparison.runs_of(method)[0]["config"]["lr"]),
            paired=against.get(method),
        )
        for method, own in scores.items()
    ]


def method_of(run: Run) -> str:
    """The method of a run, with its settings as `ailora.lab.methods.variants` writes them."""
    return variant_of(run["config"])


def watched_of(run: Run) -> str:
    """What a run's history records on the selection rows: the metric, or the loss of texts."""
    metric = str(run["data"]["metric"])
    return metric if metric in run["history"][-1] else "selection_loss"


def metric_words(data: Mapping[str, Any], shown: Collection[str] | None = None) -> str:
    """Which class or mean f1 is of, where it is among the metrics that are shown; else empty.

    Args:
        data: What a result says of its data.
        shown: Names of the metrics; None for the headline alone.
    """
    labels = data.get("labels")
    if "f1" not in (shown or [data["metric"]]) or not labels:
        return ""
    if len(labels) > 2:
        return f"f1 is the mean over the {len(labels)} classes, each counting alike (macro)"
    if data.get("positive") is not None:
        return f"f1 is of the positive class, {data['positive']!r}"
    return f"f1 is of the last class, {labels[-1]!r}"


def words_of(run: Run) -> str:
    """The label of an axis that shows what is watched of a run."""
    return metric_label(run["data"], watched_of(run)).removeprefix("selection_")


def name_of(method: str) -> str:
    """The method's name as papers write it, and what differs from it."""
    return label_of(method)


def listed(names: Iterable[str]) -> str:
    """Names in a row: with semicolons where one has a comma in it."""
    names = list(names)
    return ("; " if any("," in name for name in names) else ", ").join(names)


def score_of(run: Run, split: str = "test") -> float:
    """A run's headline score."""
    return float(run["metrics"][split][run["data"]["metric"]])


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # adding 0 turns -0 into 0


def scores_by_seed(comparison: Comparison, method: str) -> dict[int, float]:
    """A method's test scores by seed."""
    return {run["config"]["seed"]: score_of(run) for run in comparison.runs_of(method)}
