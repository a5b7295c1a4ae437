"""Seconds and errors: everybody in one process, interleaved, the median of several rounds."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from contenders import BASELINE, Contender, Found, ailora, others, svd_fp32
from matrices import Shape, Truth, truth
from scipy.sparse.linalg import ArpackNoConvergence
from torch import Tensor

from ailora.linalg import Part, decompose, subspace_distance

Row = dict[str, Any]
# OpenBLAS's threads spin for a tenth of a second after a call and slow whoever comes next: the
# minor part of 384 x 384 took 42 ms after SciPy's turn, and 8 ms alone. But a pause that long puts
# the threads of the next to sleep, which costs anybody 5 ms (22 ms instead of 9; the SVD 18 instead
# of 12). So up to this size a call goes before the one that is timed: as in a model, weight after
# weight.
_PAUSE = 0.15
_TWICE_UP_TO = 1024
PARTS: tuple[Part, ...] = ("principal", "minor")


class Job(NamedTuple):
    """One contender on one end of a weight's spectrum."""

    rank: int
    part: Part
    name: str
    run: Contender


def measure(
    W: Tensor, kind: str, ranks: Sequence[int], rounds: int, *, alone: bool = False
) -> list[Row]:
    """Rows for each rank, part and contender; with `alone`, without the other libraries.

    The full SVD's time does not depend on rank and part: it runs once a round.
    """
    shape = (W.shape[0], W.shape[1])
    reference = truth(W)
    jobs, left_out = _jobs(shape, [r for r in ranks if r <= min(shape)], alone)
    wall, cpu, found = defaultdict(list), defaultdict(list), {}
    failed: list[Job] = []
    for _ in range(rounds):
        for job in jobs:
            if job in failed:
                continue
            time.sleep(_PAUSE)
            try:
                if min(shape) <= _TWICE_UP_TO:
                    job.run(W, job.rank, job.part)
                began, spent = time.perf_counter(), time.process_time()
                found[job] = job.run(W, job.rank, job.part)
            except ArpackNoConvergence:
                failed.append(job)
                continue
            wall[job].append(time.perf_counter() - began)
            cpu[job].append(time.process_time() - spent)
    jobs = [job for job in jobs if job not in failed]
    left_out += [(job.rank, job.part, job.name, "no convergence") for job in failed]
    whole = next(job for job in jobs if job.name == BASELINE)
    base = statistics.median(wall[whole])
    rows = []
    for rank, part in dict.fromkeys((job.rank, job.part) for job in jobs if job is not whole):
        for job in [
            *(j for j in jobs if (j.rank, j.part) == (rank, part) and j is not whole),
            whole,
        ]:
            result = found[job] if job is not whole else _cut(found[whole], rank, part)
            seconds = statistics.median(wall[job])
            rows.append(
                _case(shape, kind, rank, part, reference)
                | {"method": job.name, "seconds": seconds, "faster": base / seconds}
                | {"cpu_seconds": statistics.median(cpu[job]), "rounds": rounds}
                | _errors(result, reference, rank, part)
            )
    return rows + [
        _case(shape, kind, rank, part, reference) | {"method": name, "left_out": why}
        for rank, part, name, why in left_out
    ]


def _jobs(
    shape: Shape, ranks: Sequence[int], alone: bool
) -> tuple[list[Job], list[tuple[int, Part, str, str]]]:
    jobs, left_out = [], []
    for rank in ranks:
        for part in PARTS:
            jobs.append(Job(rank, part, "ailora", ailora))
            for name, run in () if alone else others(shape, rank, part):
                if isinstance(run, str):
                    left_out.append((rank, part, name, run))
                else:
                    jobs.append(Job(rank, part, name, run))
    jobs.append(Job(min(shape), "principal", BASELINE, svd_fp32))
    return jobs, left_out


def _case(shape: Shape, kind: str, rank: int, part: Part, reference: Truth) -> Row:
    S = reference.S
    edge, neighbour = (
        (rank - 1, rank) if part == "principal" else (len(S) - rank, len(S) - rank - 1)
    )
    gap = float((S[edge] - S[neighbour]).abs() / S[0]) if rank < len(S) else None
    return {
        "shape": f"{shape[0]}x{shape[1]}",
        "spectrum": kind,
        "rank": rank,
        "part": part,
        "gap": gap,
    }


def _cut(found: Found, rank: int, part: Part) -> Found:
    U, S, V = found
    kept = slice(None, rank) if part == "principal" else slice(len(S) - rank, None)
    return U[:, kept], S[kept], V[:, kept]


def _errors(found: Found, reference: Truth, rank: int, part: Part) -> Row:
    """Sine of the largest angle on either side; largest relative error of a singular value."""
    U, S, V = (x.double() for x in found)
    P, s, Q = _cut(reference, rank, part)
    return {
        "subspace_error": max(subspace_distance(U, P), subspace_distance(V, Q)),
        "value_error": float(((S - s).abs() / s).max()),
    }


def warm_up() -> None:
    """Imports and thread pools, so that nobody's first call pays for them."""
    W = torch.randn(300, 300)
    for part in PARTS:
        decompose(W, 4, part)
    torch.linalg.svd(W)
