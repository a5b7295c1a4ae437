"""What runs cost on this machine, and how many at a time are fastest: measured on small runs."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

import torch

from ailora.errors import MALFORMED
from ailora.files import parse_json, read_text, write_json
from ailora.lab.experiments.engines.memory import available, peak
from ailora.lab.experiments.jobs import Job
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train

STEPS = 6  # steps of a run that is measured
EVAL_ROWS = 32
_GAIN = 1.05  # more workers need more memory, so they must be worth it


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs in time and memory.

    Attributes:
        setup: Seconds for loading and starting, once per run.
        step: Seconds per optimiser step.
        row: Seconds for scoring one row.
        memory: Peak of its process, in bytes.
    """

    setup: float
    step: float
    row: float
    memory: int


@dataclass(frozen=True)
class Layout:
    """Number of worker processes, and of threads in each."""

    workers: int
    threads: int


@dataclass
class Calibration:
    """What was measured on this many cores, by `kind` of run."""

    cores: int
    layouts: dict[str, Layout] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Calibration:
        """What a store remembers; empty if it was measured on another number of cores."""
        try:
            found = parse_json(read_text(_file(folder)))
            if found["cores"] == cores():
                layouts = {name: Layout(**made_of) for name, made_of in found["layouts"].items()}
                costs = {name: Cost(**made_of) for name, made_of in found["costs"].items()}
                return cls(found["cores"], layouts, costs)
        except (OSError, *MALFORMED):
            pass
        return cls(cores())

    def write(self, folder: Path) -> None:
        """Remember it in a store."""
        write_json(_file(folder), asdict(self))


# Mean cost of jobs done at once, on so many threads each; None if one of them failed.
Measure = Callable[[Sequence[Job], int], Cost | None]


def measure(config: RunConfig) -> Cost:
    """The cost of a run: a few of its steps are done, in a folder that is then removed.

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
        report_to=None,
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
        # Before the first step and after the last, whose scores are the final ones, and the test.
        row=scoring / (2 * data["selection"] + data["test"]),
        memory=peak(),
    )


def mean(costs: Sequence[Cost]) -> Cost:
    """The mean cost of runs that were done at the same time; of memory the largest."""
    return Cost(
        setup=fmean(cost.setup for cost in costs),
        step=fmean(cost.step for cost in costs),
        row=fmean(cost.row for cost in costs),
        memory=max(cost.memory for cost in costs),
    )


def seconds(job: Job, cost: Cost) -> float:
    """Seconds that a run will take, if it does not stop early.

    setup + steps * step + rows scored * row, where the rows scored are those of the evaluations
    on the way, the one before the first step among them, and both splits at the end; the last
    evaluation is not made again where it was of the whole split and of the weights that are kept.
    """
    config, rows = job.config, job.rows
    if rows is None:
        return 0.0
    steps = math.ceil(math.ceil(rows.train / config.batch_size) * config.epochs)
    evaluations = 1 + (config.evaluations or math.ceil(config.epochs))
    watched = min(config.monitor_rows or rows.selection, rows.selection)
    again = watched < rows.selection or config.early_stopping is not None
    scored = evaluations * watched + (rows.selection if again else 0) + rows.test
    return cost.setup + steps * cost.step + scored * cost.row


def kind(config: RunConfig) -> str:
    """Name of the runs that cost about the same: by model, task and what a step holds."""
    parts = (config.model, config.task, config.batch_size, config.max_length, config.precision)
    return " ".join(map(str, parts))


def by_kind(jobs: Iterable[Job]) -> Mapping[str, Job]:
    """The first job of each kind."""
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(kind(job.config), job)
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def given_layout(workers: int | None, threads: int | None) -> Layout | None:
    """The layout that the user asked for, one number completed from the other; None without any."""
    if workers is None and threads is None:
        return None
    return Layout(
        workers or max(1, cores() // (threads or 1)), threads or max(1, cores() // (workers or 1))
    )


def find_layout(jobs: Sequence[Job], known: Calibration, measure: Measure) -> Layout:
    """The fastest layout for the first job that can be measured.

    The number of workers is doubled from one, and the threads of each halved, as long as that
    does more runs per hour and memory is left. With an accelerator it is one worker.
    """
    if torch.accelerator.is_available() or len(jobs) == 1:
        return Layout(1, known.cores)
    for name, job in by_kind(jobs).items():
        if name in known.layouts:
            return known.layouts[name]
        layout, cost = Layout(1, known.cores), measure([job], known.cores)
        if cost is not None:
            layout, cost = _climb(job, layout, cost, min(known.cores, len(jobs)), measure)
            known.layouts[name], known.costs[_on(layout, name)] = layout, cost
            return layout
    return Layout(1, known.cores)


def find_costs(
    jobs: Iterable[Job], known: Calibration, layout: Layout, measure: Measure
) -> dict[str, Cost]:
    """The cost of each kind of job, except those that cannot be measured."""
    found = {}
    for name, job in by_kind(jobs).items():
        cost = known.costs.get(_on(layout, name))
        cost = cost or measure([job] * layout.workers, layout.threads)
        if cost is not None:
            found[name] = known.costs[_on(layout, name)] = cost
    return found


def _climb(
    job: Job, layout: Layout, cost: Cost, most: int, measure: Measure
) -> tuple[Layout, Cost]:
    workers = 2 * layout.workers
    while workers <= most and available() > workers * cost.memory:
        wider = Layout(workers, max(1, cores() // workers))
        shared = measure([job] * workers, wider.threads)
        if shared is None or _rate(wider, job, shared) < _GAIN * _rate(layout, job, cost):
            break
        layout, cost, workers = wider, shared, 2 * workers
    return layout, cost


def _rate(layout: Layout, job: Job, cost: Cost) -> float:
    """Runs per second."""
    return layout.workers / seconds(job, cost)


def _on(layout: Layout, kind_of_run: str) -> str:
    return f"{layout.workers} x {layout.threads} {kind_of_run}"


def _file(folder: Path) -> Path:
    return folder / "calibration.json"
