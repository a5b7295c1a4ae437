"""What bounds a sweep, and how many runs an hour it does beside another commit.

    python benchmarks/sweep.py                          # where the time of a run goes
    python benchmarks/sweep.py --beside ../other/src    # and both commits in turn
    python benchmarks/sweep.py --beside ../other/src --save

The runs are of the embedded encoder on film reviews. The breakdown is of one process with one
thread that does them one after another, as a worker does, in seconds of processor time; a phase
within another counts once, in the inner one. The comparison is of the whole command, `ailora sweep`
in a new process and a new folder with as many workers as there are cores, one thread each; the two
commits take turns and the median of the rounds' ratios counts. Both must leave the same scores and
weights to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from transformers import Trainer

from ailora.cli.console import quiet_libraries
from ailora.lab.demo import asset_cache
from ailora.lab.experiments import Grid, Store
from ailora.lab.experiments.engines import worker
from ailora.lab.experiments.jobs import Tasks, do_job
from ailora.lab.methods import lora_family
from ailora.lab.training import RunConfig, folder, monitoring, run
from ailora.lab.training.kinds import classification

RESULTS = Path(__file__).parent / "results" / "sweep.json"
HERE = Path(__file__).parent.parent / "src"
COMMAND = "from ailora.lab.cli.main import main; main()"
PARTS = ("breakdown", "beside")  # of the results; each can be measured alone
GRID = {"seed": [0, 1], "lr": [1e-3, 2e-3], "method": ["lora", "ailora"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=Path, help="folder src of another commit")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison; 0 for none")
    parser.add_argument("--limit", type=int, default=320, help="rows a run learns from")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--breakdown-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--seeds", type=int, default=2, help="of the breakdown, 4 runs each; 0 for none"
    )
    chosen = parser.parse_args()
    if chosen.breakdown_only:
        print(json.dumps(breakdown(chosen.limit, chosen.seeds)))
        return
    sources = {"this commit": HERE} | ({"other commit": chosen.beside} if chosen.beside else {})
    found: dict[str, Any] = {"machine": machine(), "rows": chosen.limit}
    found["runs_of_the_breakdown"] = 4 * chosen.seeds
    if chosen.seeds:
        found["breakdown"] = {
            name: in_new_process(source, chosen.limit, chosen.seeds)
            for name, source in sources.items()
        }
        Console().print(breakdown_table(found["breakdown"]))
    if chosen.beside and chosen.rounds:
        found["beside"] = beside(sources, chosen.rounds, chosen.limit)
        Console().print(beside_table(found["beside"]))
    if chosen.save:
        known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        found = {name: known[name] for name in PARTS if name in known} | found
        RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


# --- Where the time of a run goes -----------------------------------------------------------------


def in_new_process(source: Path, limit: int, seeds: int) -> dict[str, float]:
    """The breakdown by the code below another folder."""
    options = ["--limit", str(limit), "--seeds", str(seeds)]
    command = [sys.executable, __file__, "--breakdown-only", *options]
    done = subprocess.run(
        command, env=environment(source), check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def breakdown(limit: int, seeds: int) -> dict[str, float]:
    """Processor seconds of each phase, the mean of the runs; of imports and data, once."""
    clock = Clock()
    clock.spent["imports, once"] = time.process_time()  # since the process began
    torch.set_num_threads(1)
    quiet_libraries()
    getattr(worker, "settle", lambda: None)()  # what a worker does first
    common, tasks = RunConfig(limit=limit, eval_limit=200, epochs=1), Tasks()
    axes = GRID | {"seed": range(seeds)}
    with clock("data, once"):
        jobs = [tasks.job(config) for config in Grid(common=common, axes=axes).runs()]
    with tempfile.TemporaryDirectory() as scratch, timed_phases(clock):
        for job in jobs:
            with clock("rest"):
                do_job(job, Store(Path(scratch)), tasks, lambda event: None)
    once = {name: spent for name, spent in clock.spent.items() if name.endswith("once")}
    each = {name: spent / len(jobs) for name, spent in clock.spent.items() if name not in once}
    return once | dict(sorted(each.items(), key=lambda item: -item[1]))


class Clock:
    """Processor seconds by phase; the time of a phase within another is the inner one's alone."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._within: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Charge what is done within to this phase."""
        self._charge()
        self._within.append(name)
        try:
            yield
        finally:
            self._charge()
            self._within.pop()

    def timing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time charged to a phase."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return function(*args, **kwargs)

        return timed

    def _charge(self) -> None:
        now = time.process_time()
        if self._within:
            self.spent[self._within[-1]] = self.spent.get(self._within[-1], 0) + now - self._since
        self._since = now


@contextlib.contextmanager
def timed_phases(clock: Clock) -> Iterator[None]:
    """Time the functions that the phases are made of."""
    phases = (
        ("checking the model's files", asset_cache, "_is_whole"),
        ("loading model and tokenizer", classification, "load_pretrained"),
        ("tokens", classification.Classification, "encode"),
        ("start compared with the base", run, "outputs_on"),
        ("decompositions and adapter", lora_family, "lora"),
        ("decompositions and adapter", lora_family, "ailora"),
        ("trainer set up", run, "build_trainer"),
        ("training", run, "run_to_end"),
        ("evaluations on the way", Trainer, "evaluate"),
        ("final scores", run, "_finish"),
        ("checkpoints", Trainer, "_save_checkpoint"),
        ("checkpoints", monitoring, "sync_tree"),
        ("saving", run.methods, "save"),
        ("saving", folder.RunFolder, "finish"),
        ("collecting garbage", gc, "collect"),
    )
    before = [(owner, name, getattr(owner, name)) for _, owner, name in phases]
    for (phase, owner, name), (*_, function) in zip(phases, before, strict=True):
        setattr(owner, name, clock.timing(phase, function))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def breakdown_table(found: dict[str, dict[str, float]]) -> Table:
    table = Table(title="processor seconds of a run, one thread")
    table.add_column("phase")
    for name in found:
        table.add_column(name, justify="right")
    for phase in dict.fromkeys(phase for one in found.values() for phase in one):
        table.add_row(phase, *(f"{one.get(phase, 0.0):.2f}" for one in found.values()))
    sums = (sum(s for p, s in one.items() if not p.endswith("once")) for one in found.values())
    table.add_section()
    table.add_row("a run", *(f"{one:.2f}" for one in sums))
    return table


# --- Two commits in turn --------------------------------------------------------------------------


def beside(sources: dict[str, Path], rounds: int, limit: int) -> dict[str, Any]:
    """Wall seconds of the whole command by each commit; their ratios; whether results agree."""
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    same = set()
    for _ in range(rounds):
        for name, source in sources.items():
            with tempfile.TemporaryDirectory() as scratch:
                took, left = one_sweep(source, Path(scratch), limit)
            print(f"{name}: 8 runs in {took:.1f} s", flush=True)
            seconds[name].append(took)
            same.add(left)
    ours, others = seconds.values()
    ratios = [other / own for own, other in zip(ours, others, strict=True)]
    rates = {name: 8 * 3600 / statistics.median(own) for name, own in seconds.items()}
    return {
        "seconds": seconds,
        "runs_an_hour": rates,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "same_to_the_bit": len(same) == 1,
    }


def one_sweep(source: Path, folder: Path, limit: int) -> tuple[float, str]:
    """Seconds of a sweep in a new process, and a hash of its scores and weights."""
    plan = folder / "sweep.toml"
    lines = [f"limit = {limit}", "eval_limit = 200", "epochs = 1", "[grid]"]
    lines += [f"{name} = {json.dumps(values)}" for name, values in GRID.items()]
    plan.write_text("[common]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    out = folder / "out"
    options = ["--out", str(out), "--workers", str(os.cpu_count()), "--threads", "1"]
    command = [sys.executable, "-c", COMMAND, "sweep", str(plan), *options, "--no-estimate"]
    began = time.perf_counter()
    subprocess.run(command, env=environment(source), check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    digest = hashlib.sha256()
    for path in sorted(out.glob("*/adapter/*.safetensors")):
        digest.update(path.read_bytes())
    for path in sorted(out.glob("*/result.json")):
        digest.update(json.dumps(json.loads(path.read_text())["metrics"]).encode())
    return took, digest.hexdigest()


def environment(source: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(source.absolute()), "OMP_NUM_THREADS": "1"}


def beside_table(found: dict[str, Any]) -> Table:
    table = Table(title="8 runs by the whole command, a new process each")
    for column in ("", "seconds, median", "runs an hour"):
        table.add_column(column, justify="right" if column else "left")
    for name, own in found["seconds"].items():
        rate = found["runs_an_hour"][name]
        table.add_row(name, f"{statistics.median(own):.1f}", f"{rate:.0f}")
    same = "the same to the bit" if found["same_to_the_bit"] else "NOT the same to the bit"
    table.caption = f"ratio {found['ratio']:.2f}; scores and weights are {same}"
    return table


if __name__ == "__main__":
    main()
