"""Hard matrices are solved, or the check or an error says that they are not: 800 seeded ones.

``python -m tests.numbers --cases 10000`` does more of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mpmath
import pytest
import torch
from torch import Tensor

from ailora.linalg import Part, Triplets, decompose
from tests.conftest import one_thread
from tests.numbers.__main__ import counts, summary
from tests.numbers.cases import SAID, SOLVED, WRONG, Case, as_line, read_log, run_case
from tests.numbers.judge import Truth, faults
from tests.numbers.matrices import KINDS

CASES, PARTS = 800, 4


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with one_thread():
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_hard_matrix_is_decomposed_wrongly(part: int) -> None:
    cases = [run_case(number, 0) for number in range(part, CASES, PARTS)]
    assert [as_line(case) for case in cases if case.verdict == WRONG] == []
    assert sum(case.verdict == SOLVED for case in cases) > len(cases) / 2
    assert {kind for case in cases for kind in case.kinds} == set(KINDS)
    assert {m for case in cases for m in case.methods} == {"dense", "gram", "krylov", "inverse"}


def test_a_full_svd_that_does_not_converge_is_made_of_the_transpose() -> None:
    assert run_case(9275, 0).verdict == SAID  # LAPACK gives up on it, 121 x 121, with tol 1e-16


# --- The judge can see what it is for ------------------------------------------------------------


def _weight() -> Tensor:
    S = torch.linspace(3, 0.5, 30, dtype=torch.float64)
    S[-1] = 0
    W = torch.randn(30, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (torch.linalg.qr(W).Q * S) @ torch.linalg.qr(W + W.T).Q


def _turned(found: Triplets) -> Triplets:
    """Vectors at a small angle to those that they should be: still orthonormal."""
    step = torch.zeros(30, 30, dtype=torch.float64)
    step[0, 5], step[5, 0] = 1e-10, -1e-10
    return replace(found, U=torch.linalg.matrix_exp(step) @ found.U)


def _changed(**fields: object) -> Callable[[Triplets], Triplets]:
    return lambda found: replace(found, check=replace(found.check, **fields))


def _inner(_: Triplets) -> Triplets:
    """Good triplets, but not the outermost."""
    U, S, Vt = torch.linalg.svd(_weight())
    signs = torch.where(U.gather(0, U.abs().argmax(0)[None]) < 0, -1.0, 1.0)
    U, Vt = U * signs, Vt * signs.T
    inner = decompose(_weight(), 3, "principal")
    return replace(inner, U=U[:, 1:4], S=S[1:4], Vt=Vt[1:4])


@pytest.mark.parametrize(
    ("harm", "part", "said"),
    [
        (lambda found: replace(found, S=found.S * (1 + 1e-12)), "principal", "backward error"),
        (_turned, "principal", "backward error"),
        (lambda found: replace(found, U=found.U * 1.0001), "minor", "backward error"),
        (_inner, "principal", "singular values off"),
        (_changed(residual=1e-3), "principal", "residual 1e-03 said, is only"),
        (_changed(gap=0.5), "principal", "gap 5e-01 said"),
        (_changed(gap=None), "principal", ""),
        (lambda found: replace(found, dead_below=0.0), "minor", "0 dead, of 1 zeros"),
        (lambda found: replace(found, dead_below=9.0), "minor", "3 dead, of 1 zeros and 2"),
        (lambda found: replace(found, S=found.S.flip(0)), "principal", "not descending"),
        (lambda found: replace(found, U=-found.U, Vt=-found.Vt), "principal", "signs"),
        (lambda found: replace(found, S=found.S[:2]), "principal", "another shape"),
        (lambda found: replace(found, S=found.S * torch.inf), "principal", "not finite"),
        (lambda found: replace(found, S=found.S.float()), "principal", "dtype"),
    ],
)
def test_what_is_wrong_or_untrue_is_seen(
    harm: Callable[[Triplets], Triplets], part: Part, said: str
) -> None:
    truth, found = Truth.of(_weight()), decompose(_weight(), 3, part)
    assert list(faults(truth, found, 3, part, 1e-8)) == []
    seen = list(faults(truth, harm(found), 3, part, 1e-8))
    assert any(said in fault for fault in seen) if said else not seen


def test_a_residual_that_is_said_to_be_smaller_is_seen() -> None:
    weight = torch.randn(80, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth, found = Truth.of(weight), decompose(weight, 3, "principal", tol=1e-3)
    found = replace(found, S=found.S + 1e-5 * found.S[0])
    assert any("residual" in fault for fault in faults(truth, found, 3, "principal", 1e-3))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_judges_singular_values_are_those_of_50_digits(kind: str) -> None:
    import random

    weight = KINDS[kind](random.Random(kind), 6, 5)  # noqa: S311
    truth = Truth.of(weight)
    with mpmath.workdps(400):  # the grades of a matrix may span 600 decades
        exact = mpmath.svd_r(mpmath.matrix(weight.tolist()), compute_uv=False)
        unit = mpmath.mpf(2) ** truth.exponent
        for mine, value in zip(truth.s, sorted(exact, reverse=True), strict=True):
            assert abs(mine - value / unit) <= truth.rounding * truth.s[0]


def test_a_log_is_continued_and_summed_up(tmp_path: Path) -> None:
    cases = [run_case(number, 5) for number in range(3)]
    (tmp_path / "log").write_text("\n".join(map(as_line, cases)) + "\n" + as_line(cases[0])[:-9])
    assert read_log(tmp_path / "log") == cases
    wrong: Case = replace(cases[0], verdict=WRONG, why="backward error")
    assert counts(cases, 5)["cases"] == 3
    assert summary([*cases, wrong])[-1].endswith("backward error")
