"""At the time that torch's randomised SVD takes, whose error is smaller?

Two questions, a table each. *Fronts*: `ailora.decompose` at many tolerances beside
`torch.svd_lowrank` at niter 1 to 16 (PEFT's ``pissa_niter_*``); of ours, the smallest error that
is had in no more time counts. *A 7B model*: all seven linear layers of a LLaMA-2-7B-shaped block at
rank 32 beside the full SVD that PEFT's ``pissa`` calls, one matrix per shape and repetition, times
the number of them. All in one process, in turn; times are of the processor, the least of the
rounds, so that other programs do not count. The error is the largest relative one of a singular
value, against the eigenvalues of the Gram matrix in float64.

    python benchmarks/fronts.py                         768 and 2048: two minutes on one thread
    python benchmarks/fronts.py --full --save           adds 4096 and 11008 x 4096: half an hour
    python benchmarks/fronts.py --shapes --layers 2     the 7B model alone
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
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

RESULTS = Path(__file__).parent / "results" / "fronts.json"
NITER = (1, 2, 4, 8, 16)
TOLERANCES = (0.9, 0.4, 0.29, 0.24, 0.2, 0.16, 0.13, 0.1, 0.07, 0.05, 0.03, 0.01, 1e-3, 2e-5)
RANKS = (8, 32, 128)
# Of a block of LLaMA-2-7B: q, k, v, o; gate, up and the transposed down.
BLOCK = {(4096, 4096): 4, (11008, 4096): 3}
Row = dict[str, Any]


def exact_values(W: Tensor, rank: int) -> Tensor:
    """The largest singular values, in float64."""
    tall = (W if W.shape[0] >= W.shape[1] else W.T).double()
    return torch.linalg.eigvalsh(tall.T @ tall).flip(0)[:rank].clamp(min=0).sqrt()


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor seconds, and what came of it."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found.double()


def contenders(W: Tensor, rank: int) -> Iterator[tuple[str, float, Callable[[], Tensor]]]:
    """Whose it is, its setting, and how to have the largest singular values."""
    for niter in NITER:
        yield "svd_lowrank", niter, lambda niter=niter: torch.svd_lowrank(W, rank, niter=niter)[1]
    for tol in TOLERANCES:
        yield "ours", tol, lambda tol=tol: decompose(W, rank, "principal", tol=tol).S


def fronts(shape: tuple[int, int], kind: str, ranks: Sequence[int], rounds: int) -> list[Row]:
    """One row per rank and contender."""
    W = weight(kind, shape, seed=1)
    exact = exact_values(W, max(ranks))
    rows = []
    for rank in ranks:
        best: dict[tuple[str, float], tuple[float, float]] = {}
        for _ in range(rounds):
            for who, setting, run in contenders(W, rank):
                spent, S = timed(run)
                error = float(((S - exact[:rank]) / exact[:rank]).abs().max())
                before, _ = best.get((who, setting), (spent, error))
                best[who, setting] = min(spent, before), error
        rows += [
            {"shape": f"{shape[0]}x{shape[1]}", "spectrum": kind, "rank": rank, "method": who}
            | {"setting": setting, "seconds": spent, "error": error}
            for (who, setting), (spent, error) in best.items()
        ]
    return rows


def compared(rows: Sequence[Row]) -> list[Row]:
    """For each of svd_lowrank's points ours with the smallest error in no more time."""
    found = []
    for row in rows:
        if row["method"] != "svd_lowrank":
            continue
        same = [r for r in rows if all(r[k] == row[k] for k in ("shape", "spectrum", "rank"))]
        ours = [r for r in same if r["method"] == "ours" and r["seconds"] <= row["seconds"]]
        best = min(ours, key=lambda r: r["error"]) if ours else None
        found.append(row | {"ours": best, "ahead": bool(best and best["error"] < row["error"])})
    return found


def block_of_7b(kind: str, layers: int, rank: int) -> list[Row]:
    """One row per shape, the least of `layers` weights: the full SVD and ours, and their errors."""
    rows = []
    for shape, count in BLOCK.items():
        times: dict[str, list[float]] = {"svd": [], "ours": []}
        errors = dict.fromkeys(times, 0.0)
        for layer in range(layers):
            W = weight(kind, shape, seed=layer)
            exact = exact_values(W, rank)
            for name, run in (
                ("svd", lambda W=W: torch.linalg.svd(W, full_matrices=False)[1][:rank]),
                ("ours", lambda W=W: decompose(W, rank, "principal").S),
            ):
                spent, S = timed(run)
                times[name].append(spent)
                errors[name] = max(errors[name], float(((S - exact) / exact).abs().max()))
        svd, ours = min(times["svd"]), min(times["ours"])
        rows.append(
            {"shape": f"{shape[0]}x{shape[1]}", "spectrum": kind, "rank": rank, "in_block": count}
            | {"layers": layers, "svd": svd, "ours": ours, "ratio": svd / ours}
            | {"svd_error": errors["svd"], "our_error": errors["ours"]}
        )
    return rows


def table_of_fronts(rows: Sequence[Row]) -> Table:
    """One line per point of svd_lowrank."""
    points = compared(rows)
    ahead = sum(point["ahead"] for point in points)
    table = Table(title=f"milliseconds (error); ahead at {ahead} of {len(points)} points")
    for column in ("shape", "spectrum", "rank", "niter", "svd_lowrank", "ours, no slower", "tol"):
        table.add_column(column)
    for point in points:
        ours = point["ours"]
        table.add_row(
            point["shape"],
            point["spectrum"],
            str(point["rank"]),
            str(point["setting"]),
            _shown(point),
            (_shown(ours) + ("" if point["ahead"] else " behind")) if ours else "none",
            f"{ours['setting']:g}" if ours else "",
        )
    return table


def _shown(row: Row) -> str:
    return f"{1e3 * row['seconds']:.1f} ({row['error']:.0e})"


def table_of_blocks(rows: Sequence[Row]) -> Table:
    """One line per shape, then the block."""
    table = Table(title="a block of a 7B model, rank 32, default tol: seconds of a weight")
    for column in ("shape", "spectrum", "full SVD", "ours", "ratio", "its error", "our error"):
        table.add_column(column)
    for kind in dict.fromkeys(row["spectrum"] for row in rows):
        own = [row for row in rows if row["spectrum"] == kind]
        for row in own:
            errors = f"{row['svd_error']:.0e}", f"{row['our_error']:.0e}"
            seconds = f"{row['svd']:.2f}", f"{row['ours']:.2f}", f"{row['ratio']:.1f}"
            table.add_row(row["shape"], kind, *seconds, *errors)
        svd, ours = (sum(row[k] * row["in_block"] for row in own) for k in ("svd", "ours"))
        table.add_row("the block", kind, f"{svd:.1f}", f"{ours:.1f}", f"{svd / ours:.1f}", "", "")
    return table


def plot(rows: Sequence[Row], path: Path) -> None:
    """Error against time, a panel per case, as SVG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - for --save alone

    cases = list(dict.fromkeys((r["shape"], r["spectrum"], r["rank"]) for r in rows))
    columns = len(RANKS)
    height = -(-len(cases) // columns)
    figure = Figure(figsize=(4 * columns, 3 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False).flat
    for panel, case in zip(panels, cases, strict=False):
        own = [r for r in rows if (r["shape"], r["spectrum"], r["rank"]) == case]
        for who, marker in (("svd_lowrank", "s--"), ("ours", "o-")):
            points = sorted(
                (r["seconds"], max(r["error"], 1e-9)) for r in own if r["method"] == who
            )
            panel.loglog(*zip(*points, strict=True), marker, label=who, markersize=4)
        panel.set_title(f"{case[0]} {case[1]}, rank {case[2]}", fontsize=9)
        panel.set_xlabel("processor seconds", fontsize=8)
        panel.set_ylabel("error", fontsize=8)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=["768x768", "2048x2048"])
    parser.add_argument("--full", action="store_true", help="4096 and 11008 x 4096, two layers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="weights per shape of the 7B block; 0: none")
    parser.add_argument("--save", action="store_true", help=f"{RESULTS.name} and .svg")
    given = parser.parse_args()
    shapes = [*given.shapes, *(["4096x4096", "11008x4096"] if given.full else [])]
    layers = given.layers if given.layers is not None else (2 if given.full else 0)
    torch.manual_seed(0)
    torch.svd_lowrank(torch.randn(300, 300), 8)
    decompose(torch.randn(300, 300), 8, "principal", tol=0.1)
    console = Console(width=110)
    results: dict[str, Any] = {"machine": machine(), "rounds": given.rounds}
    rows: list[Row] = results.setdefault("fronts", [])
    for shape in shapes:
        m, n = map(int, shape.split("x"))
        for kind in ("gaussian", "decaying"):
            rows += fronts((m, n), kind, RANKS, given.rounds)
            console.print(table_of_fronts(rows[-len(RANKS) * (len(NITER) + len(TOLERANCES)) :]))
            _keep(results, given.save)
    if layers:
        blocks = results.setdefault("block_of_7b", [])
        for kind in ("gaussian", "decaying"):
            blocks += block_of_7b(kind, layers, 32)
            _keep(results, given.save)
        console.print(table_of_blocks(blocks))


def _keep(results: dict[str, Any], save: bool) -> None:
    """What is measured so far: the rest may take half an hour."""
    if not save:
        return
    write_json(RESULTS, results)
    if results["fronts"]:
        plot(results["fronts"], RESULTS.with_suffix(".svg"))


if __name__ == "__main__":
    main()
