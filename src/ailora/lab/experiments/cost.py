"""What a run costs in time and memory: measured on a small one like it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from ailora.lab.experiments.engines.memory import peak
from ailora.lab.experiments.jobs import Job
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train

STEPS = 6
EVAL_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of the parts of a run, and bytes.

    Attributes:
        setup: Loading and starting, once a run.
        step: An optimiser step.
        row: Scoring a row.
        memory: Most that its process held.
    """

    setup: float
    step: float
    row: float
    memory: int


def measure(config: RunConfig) -> Cost:
    """Do a few steps of a run, in a folder that is then removed.

    Raises:
        UserError: As `ailora.lab.training.train`.
    """
    most = STEPS * config.batch_size
    small = replace(
        config,
        limit=min(config.limit or most, most),
        eval_limit=min(config.eval_limit or EVAL_ROWS, EVAL_ROWS),
        epochs=1,
        evaluations=1,
        monitor_rows=None,
        early_stopping=None,
    )
    task = load_task(small.task, **small.task_options())
    ends: list[float] = []

    def tell(step: int, steps: int, what: str) -> None:
        if what == "training":
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="ailora-") as folder:
        began = time.perf_counter()
        result = train(small, task, Path(folder), on_progress=tell)
        whole = time.perf_counter() - began
    data, scoring = result["data"], result["seconds"]["evaluate"]
    # The first step is slower than those to come.
    step = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else result["seconds"]["train"]
    return Cost(
        setup=max(0.0, whole - scoring - step * len(ends)),
        step=step,
        row=scoring / (3 * data["selection"] + data["test"]),  # twice on the way, then both splits
        memory=peak(),
    )


def mean(costs: Sequence[Cost]) -> Cost:
    """What a run costs while others are done beside it, from the costs of all of them."""
    return Cost(
        setup=fmean(cost.setup for cost in costs),
        step=fmean(cost.step for cost in costs),
        row=fmean(cost.row for cost in costs),
        memory=max(cost.memory for cost in costs),
    )


def seconds(job: Job, cost: Cost) -> float:
    """How long a run will take, if it does not stop early.

    setup + steps * step + rows scored * row, where the rows scored are those of the evaluations
    on the way, the one before the first step among them, and both splits at the end.
    """
    config, rows = job.config, job.rows
    if rows is None:
        return 0.0
    steps = math.ceil(math.ceil(rows.train / config.batch_size) * config.epochs)
    evaluations = 1 + (config.evaluations or math.ceil(config.epochs))
    watched = min(config.monitor_rows or rows.selection, rows.selection)
    scored = evaluations * watched + rows.selection + rows.test
    return cost.setup + steps * cost.step + scored * cost.row


def kind(config: RunConfig) -> str:
    """Runs of one kind cost about the same a step: by model, task and what a step holds."""
    parts = (config.model, config.task, config.batch_size, config.max_length, config.precision)
    return " ".join(map(str, parts))


def by_kind(jobs: Iterable[Job]) -> Mapping[str, Job]:
    """The first job of each kind."""
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(kind(job.config), job)
    return found
