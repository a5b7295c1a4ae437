"""One case: a hard matrix or a few, decomposed one way, and whether what came back is right."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from ailora.errors import UserError
from ailora.linalg import Part, Triplets, decompose, decompose_batch, decompose_share, decomposition
from tests.lines import read_lines
from tests.numbers.judge import Truth, faults
from tests.numbers.matrices import DTYPES, laid_out, matrix, shape

SOLVED, SAID, REFUSED, WRONG = "solved", "said", "refused", "wrong"
TOLS = (1e-8, 1e-8, 1e-8, 5e-324, 1e-30, 1e-16, 1e-12, 1e-6, 2e-5, 3e-5, 1e-3, 0.1, 0.5, 0.999)
_ROUTES = ("its own", "its own", "its own", "krylov", "inverse", "gram")


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a case ended.

    Attributes:
        number: Its number, which with the seed decides everything.
        seed: Of all cases.
        kinds: Of the matrices.
        how: The call, and what was asked for.
        methods: Which methods the results came from.
        verdict: "solved"; "said": the check says that tol was missed, truly; "refused": the
            library's own error; or "wrong".
        why: What is wrong, or the refusal.
    """

    number: int
    seed: int
    kinds: list[str]
    how: str
    methods: list[str]
    verdict: str
    why: str


def run_case(number: int, seed: int) -> Case:
    """Draw, decompose, judge."""
    draw = random.Random(f"{seed}:{number}")  # noqa: S311 - not a secret
    call = draw.choices(("decompose", "decompose_batch", "decompose_share"), (12, 6, 2))[0]
    route = draw.choice(_ROUTES) if call == "decompose" else "its own"
    m, n = shape(draw)
    part: Part = "principal" if call == "decompose_share" else draw.choice(("principal", "minor"))
    dtype, tol = draw.choice(DTYPES), draw.choice((*TOLS, 10 ** draw.uniform(-17, 0)))
    k = min(m, n)
    rank = min(k, draw.choice((1, 2, draw.randint(1, k), draw.randint(1, 1 + k // 8), k)))
    count = 1 if call != "decompose_batch" or k > 1000 else draw.randint(1, 4)
    kinds, drawn = zip(*(matrix(draw, m, n, dtype) for _ in range(count)), strict=True)
    weights = laid_out(draw, torch.stack(drawn))
    seed_of_solver, share = draw.randrange(4), draw.choice((0.5, 0.9, 0.999, 1 - 1e-12))
    before = weights.clone()
    how = f"{call}, {m} x {n} {dtype}, rank {rank}, {part}, tol {tol:.3g}, by {route}"
    methods, verdict = [], SOLVED
    try:
        with _by(route):
            if call == "decompose_batch":
                found = decompose_batch(weights, rank, part, seed=seed_of_solver, tol=tol)
            elif call == "decompose":
                found = [decompose(weights[0], rank, part, seed=seed_of_solver, tol=tol)]
            else:
                found = [decompose_share(weights[0], share, seed=seed_of_solver, tol=tol)]
        methods = [one.check.method for one in found]
        why = "; ".join(_faults(before, found, rank, part, tol, call, share))
        if not torch.equal(weights, before):
            why += "; the weight was changed"
        if why:
            verdict = WRONG
        elif any(one.check.residual > tol for one in found):
            verdict = SAID
    except UserError as error:
        verdict, why = REFUSED, str(error)
        if not _beyond_float64(before):
            verdict, why = WRONG, f"refused: {why}"
    except Exception as error:
        verdict, why = WRONG, f"{type(error).__name__}: {error}"
    return Case(
        number=number,
        seed=seed,
        kinds=list(kinds),
        how=how,
        methods=methods,
        verdict=verdict,
        why=why,
    )


@contextmanager
def _by(route: str) -> Iterator[None]:
    """Small weights through a solver that is meant for large ones."""
    if route == "its own":
        yield
        return

    def methods(shape: tuple[int, int], rank: int, part: Part, tol: float = 1e-8) -> object:
        able = {"krylov": part == "principal", "inverse": part == "minor" and shape[0] == shape[1]}
        return (route, "dense") if able.get(route, True) else ("gram", "dense")

    with patch.object(decomposition, "methods_for", methods):
        yield


def _beyond_float64(weights: Tensor) -> bool:
    """Whether a largest singular value is."""
    truths = [Truth.of(weight) for weight in weights]
    return any(math.frexp(t.s[0])[1] + t.exponent > 1024 for t in truths)


def _faults(
    weights: Tensor,
    found: list[Triplets],
    rank: int,
    part: Part,
    tol: float,
    call: str,
    share: float,
) -> Iterator[str]:
    if len(found) != len(weights):
        yield "another number of results"
    for weight, one in zip(weights, found, strict=False):
        truth = Truth.of(weight)
        if call == "decompose_share":
            rank = one.rank
            yield from _faults_of_share(truth, rank, share, max(tol, 1e-8))
        yield from faults(truth, one, rank, part, tol)


def _faults_of_share(truth: Truth, rank: int, share: float, tol: float) -> Iterator[str]:
    energy = np.cumsum(np.square(truth.s))
    total, slack = energy[-1], tol * energy[-1] * len(energy)
    if energy[rank - 1] < share * total - slack:
        yield f"{rank} triplets keep less than {share}"
    if rank > 1 and energy[rank - 2] > share * total + slack:
        yield f"{rank} triplets are more than {share} needs"


def as_line(case: Case) -> str:
    """JSON, on one line."""
    return json.dumps(asdict(case))


def read_log(path: Path) -> list[Case]:
    """The cases of a log, but for a last line that was cut off."""
    return [Case(**line) for line in read_lines(path)]
