"""The largest triplets: ours at two tolerances beside the randomised SVD that PEFT uses.

For a principal start the alternative is not the full SVD but PEFT's ``pissa_niter_4``, which is
`torch.svd_lowrank`. All in one process, in turn, medians of the rounds; the error is the largest
relative one of a singular value, against LAPACK's SVD in float64 of the same float32 weight.

    python benchmarks/rivals.py           2048 x 2048, a minute
    python benchmarks/rivals.py --full    adds 4096 x 4096
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine
from matrices import weight
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ailora.files import write_json
from ailora.linalg import decompose

RESULTS = Path(__file__).parent / "results" / "rivals.json"
RANKS = (8, 32, 128)
CONTENDERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "ours, tol 1e-8": lambda W, rank: decompose(W, rank, "principal").S,
    "ours, tol 1e-2": lambda W, rank: decompose(W, rank, "principal", tol=1e-2).S,
    "svd_lowrank, niter 4": lambda W, rank: torch.svd_lowrank(W, rank, niter=4)[1],
    "svd_lowrank, niter 16": lambda W, rank: torch.svd_lowrank(W, rank, niter=16)[1],
}
Row = dict[str, Any]


def measure(kind: str, size: int, rounds: int) -> list[Row]:
    """One row per rank and contender."""
    W = weight(kind, (size, size))
    exact = torch.linalg.svdvals(W.double())
    rows = []
    for rank in RANKS:
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        error = {}
        for _ in range(rounds):
            for name, run in CONTENDERS.items():
                began = time.perf_counter()
                S = run(W, rank).double()
                seconds[name].append(time.perf_counter() - began)
                error[name] = float(((S - exact[:rank]) / exact[:rank]).abs().max())
        rows += [
            {
                "weight": kind,
                "size": size,
                "rank": rank,
                "method": name,
                "seconds": statistics.median(seconds[name]),
                "error": error[name],
            }
            for name in CONTENDERS
        ]
    return rows


def table_of(rows: list[Row]) -> Table:
    """Seconds, and the error in brackets."""
    table = Table(title="seconds (largest relative error of a singular value)")
    for title in ("weight", "rank", *CONTENDERS):
        table.add_column(title, justify="left" if title == "weight" else "right")
    for start in range(0, len(rows), len(CONTENDERS)):
        own = rows[start : start + len(CONTENDERS)]
        cells = (f"{row['seconds']:.2f} ({row['error']:.0e})" for row in own)
        table.add_row(f"{own[0]['weight']} {own[0]['size']}", str(own[0]["rank"]), *cells)
    return table


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="4096 x 4096 too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/rivals.json")
    given = parser.parse_args()
    torch.manual_seed(0)
    sizes = (2048, 4096) if given.full else (2048,)
    rows = [
        row
        for size in sizes
        for kind in ("gaussian", "decaying")
        for row in measure(kind, size, given.rounds)
    ]
    console = Console()
    console.print(table_of(rows))
    if given.save:
        write_json(RESULTS, {"machine": machine(), "rounds": given.rounds, "rows": rows})


if __name__ == "__main__":
    main()
