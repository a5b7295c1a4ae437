"""How fast, how exact and how frugal is the start of an adapter?

    python benchmarks/init.py             minutes: sizes up to 2048, one 7B-shaped layer
    python benchmarks/init.py --full      every size and rank, some 40 minutes on two cores

Three questions, one table each. *Decompositions*: `ailora.decompose` beside the full SVD in float32
and, in a second table, the approximate solvers of torch, SciPy and scikit-learn; errors are against
LAPACK's SVD in float64 of the same float32 weight. *Whole models*: the q and v projections of a
LLaMA-2-7B-shaped model beside PEFT's `init_lora_weights="pissa"`; one layer is timed at a time, 32
times that is the model. *Memory*: what one decomposition needs beyond the weight, in a process of
its own. Times are medians of rounds, all methods in turn in one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import measure
import memory
import models
from contenders import BASELINE
from machine import machine
from matrices import SPECTRA, encoder_weights, weight
from rich.console import Console
from rich.table import Table

from ailora.files import write_json

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "init.json"
QUICK = ["384x384", "768x768", "1024x1024", "2048x2048"]
FULL = [*QUICK, "512x3584", "1024x4096", "4096x4096", "11008x4096"]


def rounds_for(shape: tuple[int, int], asked: int | None) -> int:
    """More of them where one takes milliseconds."""
    return asked or (9 if min(shape) <= 512 else 5 if min(shape) <= 1024 else 3)


def decompositions(
    shapes: Sequence[str], ranks: Sequence[int], rounds: int | None
) -> Iterator[list[Row]]:
    """Synthetic spectra of every shape, then the embedded encoder's weights."""
    for text in shapes:
        m, n = map(int, text.split("x"))
        for kind in SPECTRA:
            yield measure.measure(weight(kind, (m, n)), kind, ranks, rounds_for((m, n), rounds))
            Console(stderr=True).print(f"{text} {kind}: done")
    for number, (role, W) in enumerate(encoder_weights()):
        part = "principal" if role == "query" else "minor"
        name = f"MiniLM {role[0]}{number // 2}"
        found = measure.measure(W, name, ranks, rounds_for((384, 384), rounds), alone=True)
        yield [row for row in found if row["part"] == part]


def table_of_decompositions(rows: Sequence[Row]) -> Table:
    """Print ours and the full SVD, one line per case."""
    table = Table(
        title="ailora.decompose beside torch.linalg.svd in float32",
        caption="x svd: times its speed; error: sine of the largest angle to the float64 subspace; "
        "value: largest relative error of a singular value; gap: relative to sigma_1",
    )
    for column in ("shape", "weight", "rank", "part", "ours s", "x svd", "gap"):
        table.add_column(column, no_wrap=True)
    for column in ("error", "value", "svd's error", "svd's value"):
        table.add_column(column)
    cases: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(_case(row), {})[row["method"]] = row
    for case, found in cases.items():
        ours, svd = found["ailora"], found[BASELINE]
        table.add_row(
            *map(str, case),
            f"{ours['seconds']:.4f}",
            f"{ours['faster']:.1f}",
            "-" if ours["gap"] is None else f"{ours['gap']:.0e}",
            *(f"{r[e]:.0e}" for r in (ours, svd) for e in ("subspace_error", "value_error")),
        )
    return table


def table_of_others(rows: Sequence[Row]) -> Table:
    """Print the approximate solvers, one line per case and solver, and those left out in one."""
    left_out = sorted({(r["method"], r["part"], r["left_out"]) for r in rows if "left_out" in r})
    table = Table(
        title="the others",
        caption="not run (everywhere or at the larger sizes): "
        + "; ".join(f"{method}, {part}: {why}" for method, part, why in left_out),
    )
    for column in ("shape", "weight", "rank", "part", "method", "s", "x svd", "error", "value"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        if row["method"] in ("ailora", BASELINE) or "left_out" in row:
            continue
        table.add_row(
            *map(str, _case(row)),
            row["method"],
            f"{row['seconds']:.4f}",
            f"{row['faster']:.1f}",
            f"{row['subspace_error']:.0e}",
            f"{row['value_error']:.0e}",
        )
    return table


def _case(row: Row) -> tuple[Any, ...]:
    return row["shape"], row["spectrum"], row["rank"], row["part"]


def table_of_models(rows: Sequence[Row]) -> Table:
    """PEFT and ours, per layer and scaled to 32."""
    table = Table(
        title="q and v of a LLaMA-2-7B-shaped model",
        caption=f"median of {rows[0]['layers_timed']} layer(s), 32 layers by multiplication",
    )
    for column in ("weights", "rank", "method", "s a layer", "s for 32", "x PEFT"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(
            row["weights"],
            str(row["rank"]),
            row["method"],
            f"{row['seconds_a_layer']:.2f}",
            f"{row['seconds_32_layers']:.0f}",
            f"{row['faster']:.1f}",
        )
    return table


def memory_use(shapes: Sequence[str]) -> list[Row]:
    """Peaks in multiples of the weight in float64."""
    rows = []
    for shape in shapes:
        m, n = map(int, shape.split("x"))
        for method, part in (("ailora", "principal"), ("ailora", "minor"), (BASELINE, "principal")):
            extra = memory.peak(shape, 8, part, method)
            if extra is not None:
                row = {"shape": shape, "method": method, "part": part, "bytes": extra}
                rows.append(row | {"times_float64": extra / (8 * m * n)})
    return rows


def table_of_memory(rows: Sequence[Row]) -> Table:
    """One line a case."""
    table = Table(title="peak extra memory, rank 8, in multiples of the weight in float64")
    for column in ("shape", "method", "part", "MB", "multiple"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        size, multiple = f"{row['bytes'] / 1e6:.0f}", f"{row['times_float64']:.1f}"
        table.add_row(row["shape"], row["method"], row["part"], size, multiple)
    return table


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every size, rank and three layers")
    parser.add_argument("--shapes", nargs="*", help="such as 384x384; none: no decompositions")
    parser.add_argument("--ranks", nargs="+", type=int)
    parser.add_argument("--rounds", type=int, help="default: 9 to 3 by size")
    parser.add_argument("--layers", type=int, help="of the 7B shape; 0: none")
    parser.add_argument("--out", type=Path, help=f"JSON; with --full {RESULTS.name} by default")
    given = parser.parse_args()
    given.shapes = (FULL if given.full else QUICK) if given.shapes is None else given.shapes
    given.ranks = given.ranks or ([8, 32, 128] if given.full else [8, 32])
    given.layers = (3 if given.full else 1) if given.layers is None else given.layers
    given.out = given.out or (RESULTS if given.full else None)
    return given


def main() -> None:
    given = options()
    measure.warm_up()
    about = machine()
    console = Console(width=None if sys.stdout.isatty() else 110)  # the tables need that much
    console.print(", ".join(f"{k} {v}" for k, v in about.items()))
    results: dict[str, Any] = {"machine": about}
    if given.layers:
        results["models"] = models.measure(given.ranks if given.full else [8], given.layers)
        console.print(table_of_models(results["models"]))
        keep(given.out, results)
    results["memory"] = memory_use(given.shapes)
    console.print(table_of_memory(results["memory"]))
    keep(given.out, results)
    if given.shapes:
        rows: list[Row] = results.setdefault("decompositions", [])
        for found in decompositions(given.shapes, given.ranks, given.rounds):
            rows += found
            keep(given.out, results)
        console.print(table_of_decompositions([r for r in rows if "left_out" not in r]))
        console.print(table_of_others(rows))


def keep(out: Path | None, results: dict[str, Any]) -> None:
    """What is measured so far: the rest may take half an hour."""
    if out:
        write_json(out, results)


if __name__ == "__main__":
    main()
