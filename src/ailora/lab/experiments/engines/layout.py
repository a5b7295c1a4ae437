"""How many workers with how many threads each: measured once for a store, and remembered there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ailora.files import write_json
from ailora.lab.experiments.cost import Cost, by_kind, seconds
from ailora.lab.experiments.engines.memory import available
from ailora.lab.experiments.jobs import Job

Measure = Callable[[Sequence[Job], int], Cost | None]  # at once, each on so many threads; the mean
_GAIN = 1.05  # more workers need more memory, so they must be worth it


@dataclass(frozen=True)
class Layout:
    """Workers, and threads of each."""

    workers: int
    threads: int


@dataclass
class Calibration:
    """What was measured on this many cores, by `ailora.lab.experiments.cost.kind`."""

    cores: int
    layouts: dict[str, Layout] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Calibration:
        """What is remembered in a store; nothing if it was made on another number of cores."""
        try:
            found = json.loads(_file(folder).read_text(encoding="utf-8"))
            if found["cores"] == cores():
                layouts = {name: Layout(**made_of) for name, made_of in found["layouts"].items()}
                costs = {name: Cost(**made_of) for name, made_of in found["costs"].items()}
                return cls(found["cores"], layouts, costs)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass
        return cls(cores())

    def write(self, folder: Path) -> None:
        """Remember it in a store."""
        write_json(_file(folder), asdict(self))


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def given_layout(workers: int | None, threads: int | None) -> Layout | None:
    """What follows from the numbers that the user gave; None if that is nothing."""
    if workers is None and threads is None:
        return None
    return Layout(
        workers or max(1, cores() // (threads or 1)), threads or max(1, cores() // (workers or 1))
    )


def find_layout(jobs: Sequence[Job], known: Calibration, measure: Measure) -> Layout:
    """The fastest layout for the first job that can be measured.

    The number of workers is doubled from one, the threads of each halved, as long as that makes
    more runs an hour and memory is left. With an accelerator it is one worker.
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
    """The cost of each kind of job; without those that cannot be measured."""
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
    """Runs a second."""
    return layout.workers / seconds(job, cost)


def _on(layout: Layout, kind_of_run: str) -> str:
    return f"{layout.workers} x {layout.threads} {kind_of_run}"


def _file(folder: Path) -> Path:
    return folder / "calibration.json"
