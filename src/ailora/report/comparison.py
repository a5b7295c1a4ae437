"""What a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Run = dict[str, Any]  # the content of a run's result.json

NAMES = {
    "lora": "LoRA",
    "pissa": "PiSSA",
    "milora": "MiLoRA",
    "ailora": "AILoRA",
    "reailora": "reAILoRA",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Finished runs of several methods on one task.

    Attributes:
        runs: The runs that are reported, each at its method's rate.
        failed: Runs that did not finish: their ``config`` and the ``error``.
        searched: With several rates, all runs, from which each method's rate was chosen.
        command: The command that made them.
        chosen: "fixed" if all methods have one rate, "selected" if each has its own best.
        rates: The rates that were tried.
        seconds: Wall-clock time of the last call.
        notes: One line each on how the data was split.
    """

    runs: Sequence[Run]
    failed: Sequence[Run] = ()
    searched: Sequence[Run] = ()
    command: str
    chosen: Literal["fixed", "selected"]
    rates: Sequence[float]
    seconds: float
    notes: Sequence[str] = ()

    @property
    def metric(self) -> str:
        """The headline metric."""
        return str(self.runs[0]["data"]["metric"])

    @property
    def methods(self) -> list[str]:
        """The methods that have runs, in one fixed order."""
        present = {method_of(run) for run in self.runs}
        known = [method for method in NAMES if method in present]
        return known + sorted(present - set(known))

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
            return (
                f"No ranking of methods: all were trained at one learning rate, {self.rates[0]:g}, "
                "and the order of the methods changes with the rate. For a fair comparison give "
                "several rates (--lr 5e-4,1e-3,2e-3,4e-3) and at least five seeds."
            )
        words = (
            "Each method is reported at its own best learning rate, chosen by its mean score on "
            "the selection split; the scores below are of the test split, which chose nothing."
        )
        if len(self.seeds) < 5:
            words += (
                f" With {len(self.seeds)} seed(s) nothing can be concluded about which is best."
            )
        return words


def method_of(run: Run) -> str:
    """The method of a run."""
    return str(run["config"]["method"])


def name_of(method: str) -> str:
    """The method's name as papers write it."""
    return NAMES.get(method, method)


def score_of(run: Run, split: str = "test") -> float:
    """A run's headline score."""
    return float(run["metrics"][split][run["data"]["metric"]])
