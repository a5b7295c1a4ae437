"""How much sooner a sweep ends by the local engine than run after run in one process.

    python benchmarks/sweep.py

One grid of the embedded encoder on film reviews, in stores that are new each round; the two take
turns, and the median of the rounds' ratios counts. "One after another" is the engine that ``ailora
compare`` has, with torch's own number of threads. The local engine's layout (workers, and threads
of each) is measured once before, as a first ``ailora sweep`` does; that is timed apart. Starting
its workers is in its times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import machine
from rich.console import Console
from rich.table import Table

from ailora.cli.console import quiet_libraries
from ailora.files import write_json
from ailora.lab.experiments import Grid, Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.engines.local import Local
from ailora.lab.experiments.jobs import Tasks, jobs_of
from ailora.lab.training import RunConfig

RESULTS = Path(__file__).parent / "results" / "sweep.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="four runs each")
    parser.add_argument("--limit", type=int, default=320, help="rows a run learns from")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    quiet_libraries()
    common = RunConfig(limit=chosen.limit, eval_limit=200, epochs=1)
    axes = {"seed": range(chosen.seeds), "lr": (1e-3, 2e-3), "method": ("lora", "ailora")}
    runs, tasks = list(Grid(common=common, axes=axes).runs()), Tasks()
    jobs = jobs_of(runs, tasks)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        layout = Local().layout(jobs, Store(Path(scratch)))
        measuring = time.perf_counter() - began
    seconds: dict[str, list[float]] = {"one after another": [], "local": []}
    scores = []
    for _ in range(chosen.rounds):
        for name, own in seconds.items():
            engine = Here(tasks) if name != "local" else Local(layout.workers, layout.threads)
            with tempfile.TemporaryDirectory() as scratch:
                began = time.perf_counter()
                outcome = sweep(runs, Store(Path(scratch)), engine, tasks=tasks)
                own.append(time.perf_counter() - began)
            scores.append([run["metrics"]["test"] for run in outcome.runs])
    ratios = [one / local for one, local in zip(*seconds.values(), strict=True)]
    found = {
        "machine": machine(),
        "runs": len(runs),
        "rows": chosen.limit,
        "threads_one_after_another": torch.get_num_threads(),
        "workers": layout.workers,
        "threads_of_each_worker": layout.threads,
        "seconds_measuring_the_layout": measuring,
        "seconds": seconds,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    assert all(len(own) == len(runs) for own in scores)
    Console().print(table_of(found))
    write_json(chosen.out, found)


def table_of(found: dict[str, object]) -> Table:
    table = Table(title=f"{found['runs']} runs of {found['rows']} rows")
    for column in ("engine", "seconds, median", "ratio"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    layout = f"{found['workers']} workers x {found['threads_of_each_worker']} threads"
    names = (f"one after another, {found['threads_one_after_another']} threads", f"local, {layout}")
    ratios = ("1.00", f"{found['ratio']:.2f}")
    for name, ratio, own in zip(names, ratios, found["seconds"].values(), strict=True):  # type: ignore[attr-defined]
        table.add_row(name, f"{statistics.median(own):.1f}", ratio)
    return table


if __name__ == "__main__":
    main()
