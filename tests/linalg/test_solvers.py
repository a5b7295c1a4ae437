"""Every solver by itself, on every kind of spectrum, against SciPy's SVD in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ailora.linalg import krylov, minor
from ailora.linalg.dense import dense
from ailora.linalg.gram import gram
from ailora.linalg.krylov import orthonormalise, principal
from ailora.linalg.minor import SingularWeightError, inverse, reduced_inverse
from ailora.linalg.triplets import Part, Solution
from tests.linalg.spectra import RANK, judge, orthonormal, spectra, with_spectrum

SHAPES = [(60, 60), (60, 140), (140, 60)]
KINDS = sorted(spectra(8))
Solver = Callable[[Tensor, int], Solution]

SOLVERS: dict[str, tuple[Part, Solver]] = {
    "dense principal": ("principal", lambda W, r: dense(W, r, "principal")),
    "dense minor": ("minor", lambda W, r: dense(W, r, "minor")),
    "gram principal": ("principal", lambda W, r: gram(W, r, "principal")),
    "gram minor": ("minor", lambda W, r: gram(W, r, "minor")),
    "krylov": ("principal", lambda W, r: principal(W, r, seed=0, tol=1e-10)),
    "inverse": ("minor", lambda W, r: inverse(W, r, seed=0, tol=1e-10)),
    "reduced inverse": ("minor", lambda W, r: reduced_inverse(W, r, seed=0, tol=1e-10)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_solver_finds_its_end_of_the_spectrum(name: str, shape: tuple[int, int], kind: str) -> None:
    part, solve = SOLVERS[name]
    if name == "inverse" and (shape[0] != shape[1] or kind == "rank-deficient"):
        pytest.skip("needs an invertible weight")
    if name == "gram minor" and kind in ("fast decay", "rank-deficient"):
        pytest.skip("the Gram matrix loses sigma < 1e-6; decompose notices, see test_choose")
    W = with_spectrum(spectra(min(shape))[kind], *shape)
    found = solve(W, RANK)
    judge(W, found.U, found.S, found.Vt, part, values=1e-9, vectors=1e-8)
    # An estimate for "inverse", from below.
    sigma_1 = float(torch.linalg.matrix_norm(W, ord=2))
    assert 0.9 * sigma_1 <= found.sigma_1 <= sigma_1 * (1 + 1e-12)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "rank-deficient"])
def test_iterated_inverse_agrees_with_scipy_as_the_explicit_one_does(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minor, "_EXPLICIT_UP_TO", 0)
    W = with_spectrum(spectra(150)[kind], 150, 150)
    found = inverse(W, RANK, seed=0, tol=1e-9)
    assert found.iterations > 0
    judge(W, found.U, found.S, found.Vt, "minor", values=1e-9, vectors=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_krylov_survives_restarts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(krylov, "_BASIS_COLUMNS", 0)
    W = with_spectrum(spectra(300)[kind], 310, 300)
    found = principal(W, RANK, seed=0, tol=1e-9)
    judge(W, found.U, found.S, found.Vt, "principal", values=1e-8, vectors=1e-8)
    if kind == "even":
        assert found.iterations > krylov._BASIS_BLOCKS, "this spectrum should need a restart"


def test_more_iterations_are_spent_for_a_smaller_tolerance() -> None:
    W = with_spectrum(spectra(400)["slow decay"], 400, 400)
    loose, tight = (principal(W, RANK, seed=0, tol=tol) for tol in (1e-2, 1e-12))
    assert loose.iterations < tight.iterations


def test_block_limit_is_kept() -> None:
    W = with_spectrum(spectra(400)["even"], 400, 400)
    op = krylov.Operator(lambda X: W @ X, lambda Y: W.T @ Y, (400, 400), W.device)
    assert krylov.block_krylov(op, RANK, seed=0, tol=1e-14, max_blocks=3).blocks == 3


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_krylov_fills_a_space_smaller_than_its_block(rank: int) -> None:
    W = with_spectrum(1.0 / torch.arange(1, 6, dtype=torch.float64), 9, 5)
    found = principal(W, rank, seed=0, tol=1e-12)
    judge(W, found.U, found.S, found.Vt, "principal", values=1e-13, vectors=1e-12)


def test_inverse_refuses_an_exactly_singular_weight() -> None:
    W = with_spectrum(spectra(20)["even"], 20, 20)
    W[:, 3] = 0
    with pytest.raises(SingularWeightError, match="LU pivot 4 of 20 is zero"):
        inverse(W, 2, seed=0, tol=1e-8)


def test_dependent_columns_become_new_orthonormal_directions() -> None:
    basis = orthonormal(50, 10, seed=3)
    block = torch.cat(
        [basis[:, :3] @ torch.randn(3, 4, dtype=torch.float64), basis.new_zeros(50, 2)], 1
    )
    both = torch.cat([basis, orthonormalise(block, basis)], dim=1)
    assert (both.T @ both - torch.eye(16)).abs().max() < 1e-12


# Negative controls: the judge must reject what only looks like an answer.


def _svd_lowrank(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    U, S, V = torch.svd_lowrank(W, r, niter=4)
    return U, S, V.T


def _lowest_of_a_randomised_svd(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    U, S, V = torch.svd_lowrank(W, 3 * r, niter=4)
    return U[:, -r:], S[-r:], V[:, -r:].T


def _svd_lowrank_of_the_rest(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deflate all but the randomised SVD's idea of the smallest: fast, and wrong."""
    torch.manual_seed(0)
    U, S, V = torch.svd_lowrank(W, W.shape[0] - r, niter=1)
    return _svd_lowrank(W - (U * S) @ V.T, r)


def _one_triplet_repeated(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    found = dense(W, 1, "minor")
    return found.U.repeat(1, r), found.S.repeat(r), found.Vt.repeat(r, 1)


def _next_to_smallest(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    found = dense(W, r + 1, "minor")
    return found.U[:, :r], found.S[:r], found.Vt[:r]


def _principal(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    found = dense(W, r, "principal")
    return found.U, found.S, found.Vt


@pytest.mark.parametrize(
    "wrong",
    [
        _svd_lowrank,
        _lowest_of_a_randomised_svd,
        _svd_lowrank_of_the_rest,
        _one_triplet_repeated,
        _next_to_smallest,
        _principal,
    ],
)
@pytest.mark.parametrize("kind", ["stepped", "even", "slow decay"])
def test_a_wrong_minor_solver_is_caught(
    wrong: Callable[..., tuple[Tensor, ...]], kind: str
) -> None:
    W = with_spectrum(spectra(80)[kind], 80, 80)
    with pytest.raises(AssertionError):
        judge(W, *wrong(W, RANK), "minor", values=1e-9, vectors=1e-8)


def test_subspace_iteration_is_caught_as_a_principal_solver() -> None:
    W = with_spectrum(spectra(200)["even"], 200, 200)
    with pytest.raises(AssertionError):
        judge(W, *_svd_lowrank(W, RANK), "principal", values=1e-9, vectors=1e-8)
