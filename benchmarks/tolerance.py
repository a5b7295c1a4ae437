"""Does training notice how exact the start was?

    python benchmarks/tolerance.py DIR          15 runs, four minutes of a core

The embedded encoder on 640 real sentences of film reviews, from principal parts of q and v (minor
ones hardly lose a digit at any tol) decomposed to some tolerances, all else equal. Differences are
to the default tol, paired by seed, with 95 % intervals of Student's t. DIR holds the runs: what is
finished there is not done again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import machine
from rich.console import Console
from rich.table import Table

from ailora.cli.console import quiet_libraries
from ailora.files import write_json
from ailora.lab.experiments import Grid, Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.settings import SETTINGS, RunConfig
from ailora.lab.statistics.differences import seed_difference

RESULTS = Path(__file__).parent / "results" / "tolerance.json"
GRID = Grid(
    common=RunConfig(
        task="movies", limit=640, eval_limit=300, evaluations=1, method="pissa", lr=2e-3
    ),
    axes={"seed": [0, 1, 2, 3, 4], "tol": [1e-2, 1e-3, 1e-8]},
)
Row = dict[str, Any]


def rows_of(store: Store) -> list[Row]:
    """One row per finished run: what it was, test accuracy, last training loss, start's seconds."""
    return [
        {k: run.result["config"][k] for k in ("method", "tol", "seed")}
        | {"accuracy": run.result["metrics"]["test"]["accuracy"]}
        | {"loss": run.result["history"][-1]["loss"], "start": run.result["seconds"]["init"]}
        for run in store.runs()
        if run.result is not None
    ]


def table_of(rows: list[Row]) -> Table:
    """One line per method and tolerance."""
    table = Table(title="differences to the default tol, paired by seed")
    for column in ("method", "tol", "n", "test accuracy", "difference", "last loss", "difference"):
        table.add_column(column)
    for method, tol in sorted({(row["method"], row["tol"]) for row in rows}):
        own = [row for row in rows if (row["method"], row["tol"]) == (method, tol)]
        cells = [method, f"{tol:g}", str(len(own))]
        for measure in ("accuracy", "loss"):
            cells += [f"{fmean(row[measure] for row in own):.4f}", _difference(rows, own, measure)]
        table.add_row(*cells)
    return table


def _difference(rows: list[Row], own: list[Row], measure: str) -> str:
    default = {
        (row["method"], row["seed"]): row[measure]
        for row in rows
        if row["tol"] == SETTINGS["tol"].first
    }
    pairs = [row[measure] - default[row["method"], row["seed"]] for row in own]
    found = seed_difference(pairs)
    if found is None:
        return f"{fmean(pairs):+.4f}"
    low, high = found.interval()
    return f"{found.estimate:+.4f} [{low:+.4f}, {high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    quiet_libraries()
    os.environ["AILORA_CACHE_LIMIT"] = "0"  # it would give the exact start to the coarse ones
    store = Store(given.folder)
    sweep(GRID.runs(), store, Here())
    rows = rows_of(store)
    Console(width=110).print(table_of(rows))
    if given.save:
        write_json(RESULTS, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
