"""Many small runs of one method, from which comparisons are drawn whose truth is known.

    nice python benchmarks/comparison_bank.py
    nice python benchmarks/comparison_bank.py --numbers

MiniLM on film reviews: rank 8 with 60 seeds, and a few seeds each of rank 1, of rank 32 and of a
rate at which nothing is learnt, so that the head stays as random as it began. Of each run the file
keeps the settings, the scores and the class of every test row, one bit each; the tests of
`ailora.lab.report.best_to_best` compare the method with itself and with the others from it.

With ``--numbers`` the reviews' mean sentiment is learnt, with 60 seeds, and the file keeps the
number that was answered to each test row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from ailora.cli.console import quiet_libraries
from ailora.files import write_json
from ailora.lab.experiments import Grid, Store, sweep
from ailora.lab.experiments.engines.local import Local
from ailora.lab.experiments.jobs import Ended
from ailora.lab.training import RunConfig

RESULTS = Path(__file__).parent / "results"
COMMON = RunConfig(method="lora", lr=1e-2, limit=160, eval_limit=240, evaluations=1)
SEEDS = range(60)
FEW = range(100, 106)
GROUPS = {
    "rank 8": Grid(common=COMMON, axes={"seed": SEEDS}),
    "rank 1": Grid(common=replace(COMMON, rank=1), axes={"seed": FEW}),
    "rank 32": Grid(common=replace(COMMON, rank=32), axes={"seed": FEW}),
    "random head": Grid(common=replace(COMMON, lr=1e-9), axes={"seed": FEW}),
}
NUMBERS = Grid(
    common=replace(COMMON, task="movies-regression", epochs=1, eval_limit=120),
    axes={"seed": SEEDS},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="folder to go on from; by default a new one")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--numbers", action="store_true", help="numbers instead of classes")
    chosen = parser.parse_args()
    quiet_libraries()
    grids = [NUMBERS] if chosen.numbers else list(GROUPS.values())
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(chosen.store or Path(scratch))
        began = time.perf_counter()
        runs = [config for grid in grids for config in grid.runs()]
        outcome = sweep(runs, store, Local(chosen.workers, 1), on_event=_tell(len(runs)))
        if outcome.failed:
            raise SystemExit(f"{len(outcome.failed)} runs failed: {outcome.failed[0].reason}")
        about = {"machine": machine()}
        if chosen.store is None:  # else some of them may have been there
            about["seconds"] = time.perf_counter() - began
        if chosen.numbers:
            found, name = _numbers(outcome, store), "comparison_bank_numbers.json"
        else:
            found, name = _classes(outcome, store), "comparison_bank.json"
    write_json(RESULTS / name, about | found)


def _classes(outcome: Any, store: Store) -> dict[str, Any]:
    return {
        "labels": _bits(store, outcome.names[0], "label"),
        "groups": {name: _group(grid, outcome, store) for name, grid in GROUPS.items()},
    }


def _numbers(outcome: Any, store: Store) -> dict[str, Any]:
    """The true number of each test row, and each run's, to three digits with spaces between."""
    rows = [_rows(store, name) for name in outcome.names]

    def column(own: list[dict[str, Any]], what: str) -> str:
        return " ".join(f"{row[what]:.3f}" for row in own)

    return {
        "seeds": [run["config"]["seed"] for run in outcome.runs],
        "pearson": [run["metrics"]["test"]["pearson"] for run in outcome.runs],
        "labels": column(rows[0], "label"),
        "predicted": [column(own, "predicted") for own in rows],
    }


def _group(grid: Grid, outcome: Any, store: Store) -> dict[str, Any]:
    own = list(grid.runs())
    wanted = {(one.rank, one.lr, one.seed) for one in own}
    kept = [
        (run, name)
        for run, name in zip(outcome.runs, outcome.names, strict=True)
        if tuple(run["config"][part] for part in ("rank", "lr", "seed")) in wanted
    ]
    return {
        "rank": own[0].rank,
        "lr": own[0].lr,
        "seeds": [run["config"]["seed"] for run, _ in kept],
        "accuracy": [run["metrics"]["test"]["accuracy"] for run, _ in kept],
        "predicted": [_bits(store, name, "predicted") for _, name in kept],
    }


def _bits(store: Store, name: str, what: str) -> str:
    """The second class as 1, one bit per test row, in hexadecimal."""
    rows = _rows(store, name)
    second = max(row["label"] for row in rows)
    return np.packbits([row[what] == second for row in rows]).tobytes().hex()


def _rows(store: Store, name: str) -> list[dict[str, Any]]:
    lines = (store.path / name / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _tell(total: int) -> Any:
    ended = 0

    def tell(event: Any) -> None:
        nonlocal ended
        if isinstance(event, Ended):
            ended += 1
            print(f"{ended} of {total} runs", end="\r", flush=True)

    return tell


if __name__ == "__main__":
    main()
