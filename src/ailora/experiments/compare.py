"""The same task, budget, head and order of rows for every method; only the start differs."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from ailora.errors import UserError
from ailora.tasks import Task
from ailora.training import RunConfig, train
from ailora.training.measure import DivergedError
from ailora.training.methods import PRESETS, check_method

Run = dict[str, Any]
OnProgress = Callable[[int, int, RunConfig, int, int], None]  # run, runs, its config, step, steps
OnFinish = Callable[[Run], None]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What to compare.

    Attributes:
        methods: Names of methods, in any order.
        seeds: Each method is trained once with each.
        rates: Learning rates. With several, each method gets its own best by the mean score on
            the selection split; the test split, which is what is reported, decides nothing.
        common: The settings that all runs share; its method, seed and lr are replaced.

    Raises:
        UserError: An unknown method, or an empty or repeated list.
    """

    methods: Sequence[str] = tuple(PRESETS)
    seeds: Sequence[int] = (0, 1)
    rates: Sequence[float] = (2e-3,)
    common: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name in ("methods", "seeds", "rates"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise UserError(f"{name}={list(values)}: give at least one, and each once")
        for method in self.methods:
            check_method(method)

    def runs(self) -> Iterator[RunConfig]:
        """Every run, seeds outermost: what is done when someone stops it is a fair half."""
        for seed, rate, method in itertools.product(self.seeds, self.rates, self.methods):
            yield replace(self.common, method=method, seed=seed, lr=rate)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Finished and failed runs, and the rate that each method is reported at."""

    runs: tuple[Run, ...]
    failed: tuple[Run, ...]
    rate_of: dict[str, float]

    @property
    def reported(self) -> tuple[Run, ...]:
        """The runs at each method's own rate."""
        return tuple(run for run in self.runs if run["config"]["lr"] == self.rate_of[_method(run)])


def compare(
    config: CompareConfig,
    task: Task,
    out: Path,
    *,
    on_progress: OnProgress = lambda run, runs, config, step, steps: None,
    on_finish: OnFinish = lambda run: None,
) -> Outcome:
    """Run all that is not finished yet below ``out`` and choose each method's rate.

    A run that diverges or runs out of memory is kept with its reason and does not stop the others;
    bad input does.

    Args:
        config: What to compare.
        task: The data, as ``config.common.task`` names it.
        out: Folder of runs.
        on_progress: Called with (run, runs, its config, step, steps) after every step.
        on_finish: Called with every run's result, or with its config and ``error``.

    Raises:
        UserError: As `ailora.training.train`, but for `DivergedError`.
    """
    plan = list(config.runs())
    results = []
    for index, run in enumerate(plan):
        tell = partial(on_progress, index, len(plan), run)
        results.append(_attempt(run, task, out, tell))
        on_finish(results[-1])
        gc.collect()  # a trainer and its model refer to each other
    finished = tuple(result for result in results if "error" not in result)
    failed = tuple(result for result in results if "error" in result)
    return Outcome(runs=finished, failed=failed, rate_of=best_rates(finished))


def _attempt(run: RunConfig, task: Task, out: Path, tell: Callable[[int, int], None]) -> Run:
    def step(done: int, of: int, what: str) -> None:
        if what == "training":
            tell(done, of)

    try:
        return train(run, task, out, resume=True, on_progress=step)
    except (DivergedError, RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return {"config": asdict(run), "error": reason}


def best_rates(runs: Sequence[Run]) -> dict[str, float]:
    """Each method's rate of the best mean score on the selection split, by its headline metric.

    A rate at which some seed failed or is missing is not chosen over one with all seeds.
    """
    scores: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        score = run["metrics"]["selection"][run["data"]["metric"]]
        scores.setdefault(_method(run), {}).setdefault(run["config"]["lr"], []).append(score)
    return {
        method: max(by_rate, key=lambda rate: (len(by_rate[rate]), fmean(by_rate[rate])))
        for method, by_rate in scores.items()
    }


def _method(run: Run) -> str:
    return str(run["config"]["method"])
