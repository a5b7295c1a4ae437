"""Does training notice how exact the start was?

    ailora sweep benchmarks/tolerance.toml --out DIR    15 runs, five minutes of a core
    python benchmarks/tolerance.py DIR

The embedded encoder on 320 real sentences of film reviews, from starts of some tolerances, all else
equal. Differences are to the default tol, paired by seed, with 95 % intervals of Student's t.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import machine
from rich.console import Console
from rich.table import Table

from ailora.files import write_json
from ailora.lab.experiments import Store
from ailora.lab.settings import SETTINGS
from ailora.lab.statistics.differences import seed_difference

RESULTS = Path(__file__).parent / "results" / "tolerance.json"
Row = dict[str, Any]


def rows_of(folder: Path) -> list[Row]:
    """One row per finished run: what it was, test accuracy, last training loss, start's seconds."""
    return [
        {k: run.result["config"][k] for k in ("method", "tol", "seed")}
        | {"accuracy": run.result["metrics"]["test"]["accuracy"]}
        | {"loss": run.result["history"][-1]["loss"], "start": run.result["seconds"]["init"]}
        for run in Store(folder).runs()
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    rows = rows_of(given.folder)
    Console(width=110).print(table_of(rows))
    if given.save:
        write_json(RESULTS, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
