"""How much faster than the full SVD is the minor part where the low end of a spectrum is dense?

Singular values log-spaced from 1 to 1e-3: what a Krylov method finds hardest. `ailora.decompose` at
the default tol beside `torch.linalg.svd` in float32, in turn in one process; times are of the
processor, the least of the rounds. The error is the largest relative one of a singular value,
against the eigenvalues of the Gram matrix in float64.

    python benchmarks/low_end.py                     2048: half a minute on one thread
    python benchmarks/low_end.py --full --save       adds 4096
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from record import Record, Row, prepared, value_error
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ailora.linalg import decompose

RESULTS = Path(__file__).parent / "results" / "low_end.json"
RANKS = (8, 32)


def measured(W: Tensor, exact: Tensor, rounds: int) -> list[Row]:
    """One row per rank, with the full SVD beside it."""
    rows: list[Row] = []
    least: dict[int, float] = {}
    for _ in range(rounds):
        rows = []
        svd, values = timed(lambda: torch.linalg.svd(W, full_matrices=False)[1])
        least[0] = min(svd, least.get(0, svd))
        for rank in RANKS:
            spent, found = timed(lambda rank=rank: decompose(W, rank, "minor"))
            least[rank] = min(spent, least.get(rank, spent))
            wanted = slice(len(exact) - rank, None)
            errors = (value_error(S, exact[wanted]) for S in (found.S, values[wanted]))
            row = dict(zip(("our_error", "svd_error"), errors, strict=True))
            rows.append(row | {"rank": rank, "method": found.check.method})
    return [row | {"ours": least[row["rank"]], "svd": least[0]} for row in rows]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what came of it."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def table_of(rows: Sequence[Row]) -> Table:
    """One line per size and rank."""
    table = Table(title="the smallest of log-spaced singular values: seconds")
    for column in ("size", "rank", "full SVD", "ours", "ratio", "its error", "our error", "by"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            str(row["size"]),
            str(row["rank"]),
            f"{row['svd']:.2f}",
            f"{row['ours']:.2f}",
            f"{row['svd'] / row['ours']:.1f}",
            f"{row['svd_error']:.0e}",
            f"{row['our_error']:.0e}",
            row["method"],
        )
    return table


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="4096 too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--weights", type=Path, help="folder to keep the weights in")
    given = parser.parse_args()
    decompose(torch.randn(300, 300), 8, "minor")
    record = Record(RESULTS if given.save else None, rounds=given.rounds)
    for size in (2048, 4096) if given.full else (2048,):
        if not record.rows("low_end", size=size):
            W, exact = prepared("log", (size, size), 0, given.weights)
            rows = measured(W, exact, given.rounds)
            record.add("low_end", [{"size": size} | row for row in rows])
    Console(width=110).print(table_of(record.rows("low_end")))


if __name__ == "__main__":
    main()
