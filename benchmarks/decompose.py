"""How fast and how exact is `decompose`, next to what torch offers?

All in one process, methods interleaved, median of repeats. The matrices are built from orthonormal
factors and a chosen spectrum, evenly spaced but for a gap of 10 % below the r largest and 50 %
above the r smallest, so the true subspaces are known without an SVD. `decompose` gets the matrix in
float64; torch's functions get it in float32, as they would be used.

    python benchmarks/decompose.py                      sizes 384, 768, 1024x2048 and 2048: minutes
    python benchmarks/decompose.py --full               adds 4096 x 4096
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
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ailora.files import write_json
from ailora.linalg import decompose, subspace_distance

Result = dict[str, float | int | str]
_TOP_GAP, _BOTTOM_GAP = 1.1, 1.5  # between the r triplets at either end and the rest


def known(m: int, n: int, rank: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """W (m, n) fp64 with a gap below the r largest and above the r smallest; its exact U, V."""
    generator = torch.Generator().manual_seed(seed)
    k = min(m, n)
    U, V = (
        torch.linalg.qr(torch.randn(s, k, generator=generator, dtype=torch.float64)).Q
        for s in (m, n)
    )
    S = torch.linspace(1.0, 2.0 / k, k, dtype=torch.float64)
    S[:rank] *= _TOP_GAP
    S[-rank:] = torch.linspace(1.0, 0.5, rank, dtype=torch.float64) * S[-rank - 1] / _BOTTOM_GAP
    return (U * S) @ V.T, U, V


def contenders(W: Tensor, rank: int, part: str) -> dict[str, Callable[[], Tensor]]:
    """Name -> a function giving V (n, r)."""
    W32 = W.float()
    end = slice(None, rank) if part == "principal" else slice(min(W.shape) - rank, None)
    found: dict[str, Callable[[], Tensor]] = {
        "ailora": lambda: decompose(W, rank, part).Vt.T,  # type: ignore[arg-type]
        "svd fp32": lambda: torch.linalg.svd(W32, full_matrices=False).Vh[end].T,
    }
    if part == "principal":
        found["svd_lowrank 4"] = lambda: torch.svd_lowrank(W32, rank, niter=4)[2]
        found["svd_lowrank 16"] = lambda: torch.svd_lowrank(W32, rank, niter=16)[2]
    return found


def measure(m: int, n: int, rank: int, part: str, repeats: int) -> list[Result]:
    """Median seconds, subspace error and speed relative to the fp32 SVD, one row per method."""
    W, _, V = known(m, n, rank)
    truth = V[:, :rank] if part == "principal" else V[:, V.shape[1] - rank :]
    methods = contenders(W, rank, part)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    errors: dict[str, float] = {}
    for _ in range(repeats):
        for name, run in methods.items():
            began = time.perf_counter()
            vectors = run()
            seconds[name].append(time.perf_counter() - began)
            errors[name] = subspace_distance(vectors, truth)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "shape": f"{m}x{n}",
            "rank": rank,
            "part": part,
            "method": name,
            "repeats": repeats,
            "seconds": median[name],
            "faster": median["svd fp32"] / median[name],
            "subspace_error": errors[name],
        }
        for name in methods
    ]


def show(rows: list[Result], about: dict[str, Any]) -> None:
    """The table on the terminal."""
    table = Table(
        title=", ".join(f"{k} {v}" for k, v in about.items()),
        caption="x svd: times the speed of torch.linalg.svd in fp32; error: of the subspace",
    )
    for column in ("shape", "rank", "part", "method", "seconds", "x svd", "error"):
        left = column in ("shape", "part", "method")
        table.add_column(column, justify="left" if left else "right", no_wrap=left)
    for row in rows:
        table.add_row(
            str(row["shape"]),
            str(row["rank"]),
            str(row["part"]),
            str(row["method"]),
            f"{row['seconds']:.4f}",
            f"{row['faster']:.1f}",
            f"{row['subspace_error']:.1e}",
        )
    Console().print(table)


def shape(text: str) -> tuple[int, int]:
    """'768' or '1024x4096'."""
    m, _, n = text.partition("x")
    return int(m), int(n or m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = ["384", "768", "1024x2048", "2048"]
    parser.add_argument("--sizes", nargs="*", type=shape, default=[shape(s) for s in defaults])
    parser.add_argument("--ranks", nargs="+", type=int, default=[8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="add 4096x4096, measured once")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    jobs = [(m, n, options.repeats) for m, n in options.sizes]
    jobs += [(4096, 4096, 1)] if options.full else []
    rows: list[Result] = []
    for m, n, repeats in jobs:
        for rank in options.ranks:
            for part in ("principal", "minor"):
                rows += measure(m, n, rank, part, repeats)
    about = machine()
    show(rows, about)
    if options.out:
        write_json(options.out, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
