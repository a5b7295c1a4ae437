"""At the time that torch's randomised SVD takes, whose error is smaller?

Two questions, a table each. *Fronts*: `ailora.decompose` at many tolerances beside
`torch.svd_lowrank` at niter 1 to 16 (PEFT's ``pissa_niter_*``); of ours, the smallest error that
is had in no more time counts. *A 7B model*: all seven linear layers of a LLaMA-2-7B-shaped block at
rank 32 and a start's default tol beside the full SVD that PEFT's ``pissa`` calls. All in one
process, in turn; times are of the processor, the least of the rounds, so that other programs do not
count. The error is the largest relative one of a singular value, against the eigenvalues of the
Gram matrix in float64.

    python benchmarks/fronts.py                         768 and 2048: two minutes on one thread
    python benchmarks/fronts.py --full --save           adds 4096 and 11008 x 4096: half an hour
    python benchmarks/fronts.py --shapes --layers 2     the 7B model alone

With --save a case that was measured before is not measured again, so it can be stopped at any time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from record import Record, Row, prepared, value_error
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ailora import AILoRAConfig
from ailora.linalg import decompose

RESULTS = Path(__file__).parent / "results" / "fronts.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "fronts.png"
NITER = (1, 2, 4, 8, 16)
TOLERANCES = (0.9, 0.4, 0.29, 0.24, 0.2, 0.16, 0.13, 0.1, 0.07, 0.05, 0.03, 0.01, 1e-3, 2e-5)
RANKS = (8, 32, 128)
SPECTRA = ("gaussian", "decaying")
# Of a block of LLaMA-2-7B: q, k, v, o; gate, up; down.
BLOCK = {(4096, 4096): 4, (11008, 4096): 2, (4096, 11008): 1}
BLOCK_RANK = 32
START_TOL = AILoRAConfig().tol


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor seconds, and what came of it."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def contenders(W: Tensor, rank: int) -> Iterator[tuple[str, float, Callable[[], Tensor]]]:
    """Whose it is, its setting, and how to have the largest singular values."""
    for niter in NITER:
        yield "svd_lowrank", niter, lambda niter=niter: torch.svd_lowrank(W, rank, niter=niter)[1]
    for tol in TOLERANCES:
        yield "ours", tol, lambda tol=tol: decompose(W, rank, "principal", tol=tol).S


def front(W: Tensor, exact: Tensor, rank: int, rounds: int) -> list[Row]:
    """One row per contender."""
    best: dict[tuple[str, float], tuple[float, float]] = {}
    for _ in range(rounds):
        for who, setting, run in contenders(W, rank):
            spent, S = timed(run)
            before, worst = best.get((who, setting), (spent, 0.0))
            # svd_lowrank draws anew each time
            best[who, setting] = min(spent, before), max(worst, value_error(S, exact[:rank]))
    return [
        {"method": who, "setting": setting, "seconds": spent, "error": error}
        for (who, setting), (spent, error) in best.items()
    ]


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


def beside_full_svd(W: Tensor, exact: Tensor) -> Row:
    """Seconds and errors of both, rank 32."""
    first = slice(None, BLOCK_RANK)
    ours, S = timed(lambda: decompose(W, BLOCK_RANK, "principal", tol=START_TOL).S)
    svd, T = timed(lambda: torch.linalg.svd(W, full_matrices=False)[1][first])
    errors = value_error(S, exact[first]), value_error(T, exact[first])
    return dict(zip(("our_error", "svd_error"), errors, strict=True)) | {"ours": ours, "svd": svd}


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
    """One line per shape and spectrum, the least of the layers; then the block."""
    table = Table(title=f"a block of a 7B model, rank {BLOCK_RANK}, default tol: seconds")
    for column in ("weights", "spectrum", "full SVD", "ours", "ratio", "its error", "our error"):
        table.add_column(column)
    for kind in dict.fromkeys(row["spectrum"] for row in rows):
        block = {"svd": 0.0, "ours": 0.0}
        for (m, n), count in BLOCK.items():
            shape = f"{m}x{n}"
            own = [row for row in rows if row["spectrum"] == kind and row["shape"] == shape]
            if not own:
                break
            svd, ours = (min(row[k] for row in own) for k in ("svd", "ours"))
            block = {"svd": block["svd"] + count * svd, "ours": block["ours"] + count * ours}
            errors = (f"{max(row[k] for row in own):.0e}" for k in ("svd_error", "our_error"))
            table.add_row(f"{count} x {shape}", kind, *_seconds(svd, ours), *errors)
        else:
            table.add_row("the block", kind, *_seconds(**block), "", "")
    return table


def _seconds(svd: float, ours: float) -> tuple[str, str, str]:
    return f"{svd:.2f}", f"{ours:.2f}", f"{svd / ours:.1f}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Error against time: a row of panels per shape and spectrum, a column per rank."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - for --save alone
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter  # noqa: PLC0415

    cases = list(dict.fromkeys((r["shape"], r["spectrum"]) for r in rows))
    figure = Figure(figsize=(3.4 * len(RANKS), 2.1 * len(cases)), layout="constrained")
    panels = figure.subplots(len(cases), len(RANKS), squeeze=False)
    for line, (shape, kind) in zip(panels, cases, strict=True):
        for panel, rank in zip(line, RANKS, strict=True):
            for who, look in (("svd_lowrank", "s--"), ("ours", "o-")):
                points = sorted(
                    (1e3 * r["seconds"], max(r["error"], 1e-8))
                    for r in rows
                    if (r["shape"], r["spectrum"], r["rank"], r["method"])
                    == (shape, kind, rank, who)
                )
                panel.set_visible(bool(points))  # else not measured yet
                if points:
                    panel.loglog(*zip(*points, strict=True), look, label=who, markersize=3.5)
            panel.set_title(f"{shape} {kind}, rank {rank}", fontsize=8)
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.tick_params(labelsize=7)
        line[0].set_ylabel("error", fontsize=8)
    for panel in panels.flat:
        panel.set_xlabel("processor milliseconds", fontsize=8)
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=["768x768", "2048x2048"])
    parser.add_argument("--full", action="store_true", help="4096 and 11008 x 4096, two layers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="weights per shape of the 7B block; 0: none")
    parser.add_argument("--save", action="store_true", help=f"{RESULTS.name}, and a picture")
    parser.add_argument("--weights", type=Path, help="folder to make the weights in, and keep them")
    parser.add_argument("--prepare", action="store_true", help="only make them")
    given = parser.parse_args()
    given.shapes += ["4096x4096", "11008x4096"] if given.full else []
    given.layers = given.layers if given.layers is not None else (2 if given.full else 0)
    return given


def main() -> None:
    """Measure, print, and keep the figures."""
    given = options()
    blocks = [f"{m}x{n}" for m, n in BLOCK] if given.layers else []
    if given.prepare:
        for shape, layers in [(s, 1) for s in given.shapes] + [(s, given.layers) for s in blocks]:
            for kind in SPECTRA:
                for layer in range(layers):
                    prepared(kind, _sides(shape), layer, given.weights)
        return
    torch.manual_seed(0)
    torch.svd_lowrank(torch.randn(300, 300), 8)
    decompose(torch.randn(300, 300), 8, "principal", tol=0.1)
    record = Record(RESULTS if given.save else None, rounds=given.rounds)
    for shape in given.shapes:
        for kind in SPECTRA:
            measure_fronts(record, shape, kind, given.rounds, given.weights)
    for shape in blocks:
        for kind in SPECTRA:
            for layer in range(given.layers):
                measure_block(record, shape, kind, layer, given.weights)
    report(record, given.save)


def measure_fronts(
    record: Record, shape: str, kind: str, rounds: int, weights: Path | None
) -> None:
    """What is not there yet of a weight."""
    for rank in RANKS:
        case = {"shape": shape, "spectrum": kind, "rank": rank}
        if not record.rows("fronts", **case):
            W, exact = prepared(kind, _sides(shape), 0, weights)
            record.add("fronts", [case | row for row in front(W, exact, rank, rounds)])


def measure_block(record: Record, shape: str, kind: str, layer: int, weights: Path | None) -> None:
    """A weight of the 7B block, if it is not there yet."""
    case = {"shape": shape, "spectrum": kind, "layer": layer}
    if not record.rows("block_of_7b", **case):
        W, exact = prepared(kind, _sides(shape), layer, weights)
        record.add("block_of_7b", [case | beside_full_svd(W, exact)])


def report(record: Record, save: bool) -> None:
    """Print all that was measured, and draw it."""
    console = Console(width=110)
    if rows := record.rows("fronts"):
        console.print(table_of_fronts(rows))
        if save:
            plot(rows, PICTURE)
    if rows := record.rows("block_of_7b"):
        console.print(table_of_blocks(rows))


def _sides(shape: str) -> tuple[int, int]:
    m, n = map(int, shape.split("x"))
    return m, n


if __name__ == "__main__":
    main()
