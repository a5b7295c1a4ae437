"""Small weights (experts, small models): one by one, in a batch, and by torch's full SVD.

`ailora.decompose` and `ailora.decompose_batch` of 16 weights beside `torch.linalg.svd` in float32
of each, in turn in one process; times are of the processor per weight, the least of the rounds. The
error is the largest of a singular value relative to sigma_1, against LAPACK's SVD in float64.

    python benchmarks/small.py --save        half a minute on one thread
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matrices import weight
from record import Record, Row
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ailora.linalg import Part, decompose, decompose_batch

RESULTS = Path(__file__).parent / "results" / "small.json"
SHAPES = ("16x16", "32x32", "64x64", "128x64", "128x128", "256x128", "256x256", "384x384")
AT_ONCE, RANK = 16, 8


def measured(weights: Tensor, part: Part, rounds: int) -> Row:
    """Milliseconds of a weight by each way, and the errors."""
    wanted = slice(None, RANK) if part == "principal" else slice(-RANK, None)
    exact = torch.linalg.svdvals(weights.double())
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "svd": lambda: [torch.linalg.svd(W, full_matrices=False)[1][wanted] for W in weights],
        "one by one": lambda: [decompose(W, RANK, part).S for W in weights],
        "batch": lambda: [found.S for found in decompose_batch(weights, RANK, part)],
    }
    row: dict[str, Any] = {"part": part}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.process_time()
            found = run()
            spent = 1e3 * (time.process_time() - began) / len(weights)
            row[name] = min(spent, row.get(name, spent))
            error = (torch.stack(found).double() - exact[:, wanted]).abs().amax(1) / exact[:, 0]
            row[f"{name}: error"] = float(error.max())
    return row


def table_of(rows: list[Row]) -> Table:
    """One line per shape and part."""
    table = Table(title=f"milliseconds per weight (error), rank {RANK}")
    names = ("svd", "one by one", "batch")
    for column in ("shape", "part", *names, "svd / one by one", "svd / batch"):
        table.add_column(column)
    for row in rows:
        cells = (f"{row[name]:.2f} ({row[f'{name}: error']:.0e})" for name in names)
        ratios = (f"{row['svd'] / row[name]:.2f}" for name in names[1:])
        table.add_row(row["shape"], row["part"], *cells, *ratios)
    return table


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    record = Record(RESULTS if given.save else None, rounds=given.rounds, at_once=AT_ONCE)
    decompose_batch(torch.randn(2, 300, 300), RANK, "minor")  # loads SciPy
    parts: tuple[Part, Part] = ("principal", "minor")
    for shape in SHAPES:
        m, n = map(int, shape.split("x"))
        weights = torch.stack([weight("gaussian", (m, n), seed) for seed in range(AT_ONCE)])
        for part in parts:
            if not record.rows("small", shape=shape, part=part):
                found = measured(weights, part, given.rounds)
                record.add("small", [{"shape": shape} | found])
    Console(width=110).print(table_of(record.rows("small")))


if __name__ == "__main__":
    main()
