"""Every solver by itself, on every kind of spectrum, against SciPy's SVD in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ailora.linalg import decompose, eigen, krylov
from ailora.linalg import inverse as inverse_module
from ailora.linalg.dense import dense
from ailora.linalg.eigen import FewerFoundError, eigh_end
from ailora.linalg.gram import gram, gram_matrix
from ailora.linalg.gram import rough as rough_gram
from ailora.linalg.inverse import inverse, inverse_map
from ailora.linalg.krylov import (
    estimate_norm,
    normal_map,
    principal,
    rough,
    search,
    start_block,
)
from ailora.linalg.refine import Normal, Operator, operator, orthonormalise, refine
from ailora.linalg.triplets import Part, Solution, StalledError, outermost, subspace_distance
from tests.linalg.spectra import RANK, judge, orthonormal, spectra, with_spectrum

SHAPES = [(60, 60), (60, 140), (140, 60)]
KINDS = sorted(spectra(8))
PARTS: tuple[Part, ...] = ("principal", "minor")
Solver = Callable[[Tensor, int], Solution]

SOLVERS: dict[str, tuple[Part, Solver]] = {
    "dense principal": ("principal", lambda W, r: dense(W, r, "principal")),
    "dense minor": ("minor", lambda W, r: dense(W, r, "minor")),
    "gram principal": ("principal", lambda W, r: gram(W, r, "principal", tol=1e-10)),
    "gram minor": ("minor", lambda W, r: gram(W, r, "minor", tol=1e-10)),
    "krylov": ("principal", lambda W, r: principal(W, r, low=W.float(), seed=0, tol=1e-10)),
    "inverse": ("minor", lambda W, r: inverse(W, r, low=W.float(), seed=0, tol=1e-10)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_solver_finds_its_end_of_the_spectrum(name: str, shape: tuple[int, int], kind: str) -> None:
    part, solve = SOLVERS[name]
    if name == "inverse" and shape[0] != shape[1]:
        pytest.skip("needs a square weight")
    W = with_spectrum(spectra(min(shape))[kind], *shape)
    found = solve(W, RANK)
    judge(W, found.U, found.S, found.Vt, part, values=1e-9, vectors=1e-8)
    # An estimate for a minor part, from below but for float32's rounding.
    sigma_1 = float(torch.linalg.matrix_norm(W, ord=2))
    assert 0.9 * sigma_1 <= found.sigma_1 <= sigma_1 * (1 + 1e-5)


def _true_residual(W: Tensor, found: Solution) -> float:
    """Both sides in float64, from nothing that the solver has computed."""
    right = W @ found.Vt.T - found.U * found.S
    left = W.T @ found.U - found.Vt.T * found.S
    eye = torch.eye(found.S.shape[0], dtype=torch.float64)
    off = [(found.U.T @ found.U - eye).abs().max(), (found.Vt @ found.Vt.T - eye).abs().max()]
    worst = max(float(x.norm(dim=0).max()) for x in (right, left))
    return max(worst / float(torch.linalg.matrix_norm(W, ord=2)), *map(float, off))


@pytest.mark.parametrize("tol", [0.9, 0.4, 0.1, 1e-2, 1e-3, 2e-5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(300, 300), (300, 500), (500, 300)], ids=str)
@pytest.mark.parametrize("rank", [3, 40])
def test_few_digits_are_as_many_as_were_asked_for(
    rank: int, shape: tuple[int, int], kind: str, tol: float
) -> None:
    W = with_spectrum(spectra(300)[kind], *shape)
    try:
        found = rough(W.float(), rank, seed=0, tol=tol)
    except StalledError:  # what rounding leaves of "rank-deficient" is above 2e-5 of nothing
        assert tol <= 1e-2
        return
    assert found.residual is not None and found.residual <= tol
    assert _true_residual(W, found) <= 1.1 * found.residual + 3e-6
    truth = torch.linalg.svdvals(W)[:rank]
    assert (truth + 3e-6 * truth[0] >= found.S).all()  # values are from below
    assert ((truth - found.S) <= tol * truth[0] + 3e-6).all()


def test_a_rough_answer_without_its_last_step_is_caught() -> None:
    W = with_spectrum(spectra(300)["slow decay"], 300, 300)
    found = rough(W.float(), RANK, seed=0, tol=1e-3)
    turned = orthonormal(RANK, RANK, seed=1)
    wrong = found._replace(Vt=turned @ found.Vt)
    assert _true_residual(W, wrong) > 10 * (found.residual or 0)


@pytest.mark.parametrize("tol", [0.9, 1e-2, 1e-3, 2e-5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(300, 300), (300, 500), (500, 300)], ids=str)
@pytest.mark.parametrize("rank", [3, 140])
def test_a_gram_matrix_in_float32_is_as_good_as_it_says_or_gives_nothing(
    rank: int, shape: tuple[int, int], kind: str, tol: float
) -> None:
    W = with_spectrum(spectra(300)[kind], *shape)
    found = rough_gram(W.float(), rank, tol=tol)
    if kind == "even" and tol >= 1e-3:
        assert found is not None, "what it is there for"
    if found is None:
        return
    assert found.residual is not None and found.residual <= tol
    assert _true_residual(W, found) <= 1.1 * found.residual + 3e-6
    truth = torch.linalg.svdvals(W)
    assert (found.S - truth[:rank]).abs().max() <= tol * truth[0]
    assert found.sigma_1 == pytest.approx(float(truth[0]), rel=1e-5)
    assert found.following == pytest.approx(float(truth[rank]), abs=1e-3 * float(truth[0]))


def test_a_gram_matrix_in_float32_may_give_all_there_are() -> None:
    W = with_spectrum(torch.linspace(2, 1, 40, dtype=torch.float64), 50, 40)
    found = rough_gram(W.float(), 40, tol=1e-3)
    assert found is not None and found.following is None
    assert (found.S - torch.linalg.svdvals(W)).abs().max() < 1e-5


@pytest.mark.parametrize("part", PARTS)
def test_the_outermost_of_some_triplets_are_triplets_in_their_order(part: Part) -> None:
    W = with_spectrum(torch.linspace(2, 1, 40, dtype=torch.float64), 50, 40)
    found = outermost(decompose(W, 7, part), 3)
    assert (found.U.shape, found.S.shape, found.Vt.shape) == ((50, 3), (3,), (3, 40))
    judge(W, found.U, found.S, found.Vt, part, values=1e-9, vectors=1e-8)
    gap = decompose(W, 3, part).check.gap
    assert found.check.gap in (None, pytest.approx(gap, rel=1e-6))


def test_a_basis_is_checked_at_two_thirds_of_the_way_that_its_rate_foresees() -> None:
    assert krylov._next_check(10, 1e-2, 1e-3) == 10 + 3  # 5 blocks a digit
    assert krylov._next_check(10, 1e-2, 1e-9) == 10 + 5  # not more than half as many again
    assert krylov._next_check(10, 2.0, 1e-9) == 10 + 5  # no rate yet


def test_a_gram_matrix_in_float32_gives_no_lost_singular_values() -> None:
    S = torch.cat([torch.ones(1), torch.full((299,), 1e-4)]).double()
    assert rough_gram(with_spectrum(S, 300, 300).float(), 8, tol=1e-2) is None


@pytest.mark.parametrize("tol", [0.9, 1e-2, 2e-5])
def test_as_many_equal_singular_values_are_found_as_there_are(tol: float) -> None:
    S = torch.full((400,), 0.5, dtype=torch.float64)
    S[:32] = 2.0
    W = with_spectrum(S, 400, 400)
    found = rough(W.float(), 32, seed=0, tol=tol)
    assert (found.S - 2).abs().max() <= tol
    assert subspace_distance(found.Vt.T, orthonormal(400, 400, seed=2)[:, :32]) <= tol + 1e-5


@pytest.mark.parametrize("kind", ["stepped", "even", "fast decay", "flat"])
def test_either_precision_of_the_inverse_leads_to_the_same_triplets(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    W = with_spectrum(spectra(200)[kind], 200, 200)
    for knows in (0.1, 0.0):
        monkeypatch.setattr(inverse_module, "_FLOAT32_KNOWS", knows)
        found = inverse(W, RANK, low=W.float(), seed=0, tol=1e-9)
        judge(W, found.U, found.S, found.Vt, "minor", values=1e-9, vectors=1e-8)


def test_an_inverse_in_float32_is_not_trusted_with_a_bad_condition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.dtype] = []
    solve = inverse_module._lu_map
    monkeypatch.setattr(inverse_module, "_lu_map", lambda W: seen.append(W.dtype) or solve(W))
    for smallest, dtypes in ((1e-3, [torch.float32]), (1e-9, [torch.float32, torch.float64])):
        S = torch.linspace(1, 0.5, 120, dtype=torch.float64)
        S[-4:] *= smallest
        W = with_spectrum(S, 120, 120)
        seen.clear()
        inverse(W, RANK, low=W.float(), seed=0, tol=1e-8)
        assert seen == dtypes


@pytest.mark.parametrize("smallest", [1e-2, 1e-3, 1e-6])
@pytest.mark.parametrize("rank", [2, 8])
def test_a_dense_lower_end_is_found_with_a_larger_basis(rank: int, smallest: float) -> None:
    S = torch.logspace(0, math.log10(smallest), 900, dtype=torch.float64)
    W = with_spectrum(S, 900, 900)
    found = inverse(W, rank, low=W.float(), seed=0, tol=1e-8)
    assert (found.S - S[-rank:]).abs().max() <= 1e-9 * smallest
    V, truth = found.Vt.T, orthonormal(900, 900, seed=2)
    # The next value is 0.5 % to 1.5 % of the smallest away.
    assert subspace_distance(V, truth[:, -rank:]) <= 1e-10 / smallest
    assert torch.linalg.vector_norm(W @ V - found.U * found.S, dim=0).max() <= 1e-9 * smallest
    with pytest.raises(AssertionError):
        assert subspace_distance(V, truth[:, -rank - 1 : -1]) <= 0.1


def test_a_clustered_lower_end_is_left_to_the_gram_matrix() -> None:
    W = with_spectrum(spectra(900)["slow decay"], 900, 900)
    with pytest.raises(StalledError, match="blocks"):
        inverse(W, 20, low=W.float(), seed=0, tol=1e-8)


def test_a_flat_upper_end_is_left_to_the_gram_matrix() -> None:
    W = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    with pytest.raises(StalledError, match="blocks"):
        principal(W, 40, low=W.float(), seed=0, tol=1e-8)


@pytest.mark.parametrize("columns", [0, 3])
def test_the_inverse_of_a_singular_weight_is_that_of_one_close_by(columns: int) -> None:
    W = with_spectrum(spectra(60)["even"], 80, 60)
    W[:, 5 : 5 + columns] = 0
    C = inverse_map(W)
    X = torch.randn(4, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    back = C.forward(X @ W.T @ W) @ W  # W^T W^-T W^T W x = W^T W x
    torch.testing.assert_close(back, X @ W.T @ W, rtol=0, atol=1e-6)
    assert torch.isfinite(C.adjoint(torch.eye(80, dtype=torch.float64))).all()


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "flat"])
@pytest.mark.parametrize("part", ["principal", "minor"])
def test_refining_mends_a_start_that_is_only_roughly_right(kind: str, part: Part) -> None:
    W = with_spectrum(spectra(100)[kind], 110, 100)
    noise = torch.randn(6, 100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start = dense(W, 6, part).Vt + 1e-3 * noise
    start = start if part == "principal" else start.flip(0)
    found = refine(
        operator(W), start, RANK, part, tol=1e-9, sigma_1=1.0, inverse=_inverse_of(W, part)
    )
    assert found.steps > 0
    # Of a dead triplet u is told by the guarded inverse alone: 0.2 to 2e-9, by the processor.
    values = 1e-8 if kind == "rank-deficient" else 1e-9
    judge(W, found.U.T, found.S, found.V, part, values=values, vectors=1e-8)


def _inverse_of(W: Tensor, part: Part) -> Callable[[], Operator] | None:
    return (lambda: inverse_map(W)) if part == "minor" else None


@pytest.mark.parametrize("part", PARTS)
def test_refining_may_need_the_whole_space(part: Part) -> None:
    W = with_spectrum(spectra(12)["even"], 15, 12)
    start = torch.randn(3, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = refine(operator(W), start, 2, part, tol=1e-14, sigma_1=1.0)
    judge(W, found.U.T, found.S, found.V, part, values=1e-13, vectors=1e-12)


def test_refining_gives_up_where_nothing_is_gained() -> None:
    W = with_spectrum(spectra(300)["even"], 300, 300)
    start = torch.randn(3, 300, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = refine(operator(W), start, 2, "minor", tol=1e-14, sigma_1=1.0)
    assert not found.converged
    assert found.steps < 41


def test_a_small_tolerance_costs_more_blocks() -> None:
    W = with_spectrum(spectra(400)["slow decay"], 400, 400)
    loose, tight = (principal(W, RANK, low=W.float(), seed=0, tol=tol) for tol in (1e-2, 1e-12))
    assert loose.iterations < tight.iterations


def test_the_basis_is_kept_within_its_limit() -> None:
    W = with_spectrum(spectra(400)["even"], 400, 400)
    start = start_block(8, W, seed=0)
    found = next(search(operator(W), start, RANK, keep=8, tol=0.0, basis=30))
    assert found.blocks == 3
    assert not found.converged


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_krylov_fills_a_space_smaller_than_its_block(rank: int) -> None:
    W = with_spectrum(1.0 / torch.arange(1, 6, dtype=torch.float64), 9, 5)
    found = principal(W, rank, low=W.float(), seed=0, tol=1e-12)
    judge(W, found.U, found.S, found.Vt, "principal", values=1e-13, vectors=1e-12)


@pytest.mark.parametrize("shape", [(3, 2), (200, 200), (200, 700)], ids=str)
def test_the_norm_is_estimated_from_below(shape: tuple[int, int]) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(W, ord=2))
    assert (
        0.9 * norm <= estimate_norm(W.T if shape[0] < shape[1] else W, seed=0) <= norm * 1.0000001
    )


@pytest.mark.parametrize("shape", [(7, 3), (700, 300), (5, 700)], ids=str)
def test_products_by_panels_are_those_with_the_gram_matrix(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(krylov, "_PANEL_BYTES", 100 * 300 * 8)  # several panels, one not full
    generator = torch.Generator().manual_seed(8)
    W, X = (
        torch.randn(rows, shape[1], generator=generator, dtype=torch.float64)
        for rows in (shape[0], 4)
    )
    for tall in (W, W.T.contiguous().T):
        torch.testing.assert_close(normal_map(tall)(X), X @ (W.T @ W), rtol=1e-12, atol=1e-9)


def test_products_in_float32_save_steps_and_cost_no_digit() -> None:
    W = with_spectrum(spectra(600)["even"], 600, 600)
    start = dense(W, 20, "principal").Vt + 1e-4 * start_block(20, W, seed=0)

    def steps(normal: Normal | None) -> int:
        found = refine(operator(W), start, RANK, "principal", tol=1e-8, sigma_1=1.0, normal=normal)
        judge(W, found.U.T, found.S, found.V, "principal", values=1e-8, vectors=1e-5)
        assert found.converged
        return found.steps

    assert steps(normal_map(W.float())) < steps(None)


@pytest.mark.parametrize("columns", [5, 512, 700])
def test_the_gram_matrix_is_the_product(columns: int) -> None:
    W = torch.randn(30, columns, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    G = gram_matrix(W)
    torch.testing.assert_close(G, W.T @ W, rtol=0, atol=1e-12)


def _finds_fewer(*_: object) -> None:
    raise FewerFoundError("2 of 3")


@pytest.mark.parametrize("n", [40, 600])  # all are found, or only those wanted
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("part", ["principal", "minor"])
def test_eigenpairs_come_from_the_wanted_end_outermost_first(
    part: Part, missing: bool, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing:
        monkeypatch.setattr(eigen, "eigh_range", _finds_fewer)
    values = torch.linspace(-1, 2, n, dtype=torch.float64)
    Q = orthonormal(n, n, seed=5)
    found, vectors, largest = eigh_end((Q * values) @ Q.T, 3, part)
    expected = values.flip(0)[:3] if part == "principal" else values[:3]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close((Q * values) @ Q.T @ vectors, vectors * expected, rtol=0, atol=1e-13)
    assert largest == pytest.approx(2, abs=1e-12)


def test_dependent_rows_become_new_orthonormal_directions() -> None:
    basis = orthonormal(50, 10, seed=3).T
    mixed = torch.randn(4, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    block = torch.cat([mixed @ basis[:3], basis.new_zeros(2, 50)])
    both = torch.cat([basis, orthonormalise(block, basis)])
    assert (both @ both.T - torch.eye(16)).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_zero_become_directions_outside_of_a_basis_of_axes(dtype: torch.dtype) -> None:
    basis = torch.eye(19, dtype=dtype)[:16]  # QR's choice for a zero row is the first axis
    both = torch.cat([basis, orthonormalise(torch.zeros(3, 19, dtype=dtype), basis)])
    assert (both @ both.T - torch.eye(19)).abs().max() < 100 * torch.finfo(dtype).eps


def test_a_row_of_zeros_in_float32_keeps_a_direction_of_its_own() -> None:
    W = torch.zeros(300, 300)
    W[7, 9] = 3.0
    found = rough(W, 4, seed=0, tol=1e-2)
    judge(W, found.U, found.S, found.Vt, "principal", values=1e-5, vectors=1.0, orthonormal=1e-5)
    assert found.following is None  # no gap is said between two zeros


@pytest.mark.parametrize("seed", range(4))
def test_exact_triplets_are_not_the_smallest_for_being_exact(seed: int) -> None:
    S = 10 ** torch.linspace(-12, 0, 78, dtype=torch.float64)
    order = torch.randperm(78, generator=torch.Generator().manual_seed(seed))
    W = torch.zeros(78, 79, dtype=torch.float64)
    W.diagonal()[:] = S[order]
    for rank in (1, 2, 5):
        found = gram(W, rank, "minor", tol=1e-13)
        assert (found.S - S[:rank].flip(0)).abs().max() <= 1e-13


def test_a_ritz_value_is_no_neighbour_that_the_gram_matrix_denies() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        W = 1e-300 * torch.randn(98, 98, generator=generator, dtype=torch.float64)
        W[seed, 3] = 1.0
        assert gram(W, 10, "minor", tol=1e-8).following == pytest.approx(0, abs=2e-7)


@pytest.mark.parametrize("shape", [(8, 8), (8, 9), (9, 8)])
@pytest.mark.parametrize("part", PARTS)
def test_a_full_svd_is_good_to_the_last_digits(part: Part, shape: tuple[int, int]) -> None:
    for seed in (2, 7, 8, 11):
        W = with_spectrum(torch.ones(8, dtype=torch.float64), *shape, seed=seed).float()
        residual = decompose(W, 8, part).check.residual
        assert residual <= 10 * math.sqrt(max(shape)) * torch.finfo(torch.float64).eps


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
