"""`decompose`: the choice, the promises around it, and what it does when a method fails."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch

from ailora.errors import UserError
from ailora.linalg import decompose, decomposition, subspace_distance
from ailora.linalg.decomposition import methods_for
from ailora.linalg.triplets import Part, Solution
from tests.linalg.spectra import RANK, judge, orthonormal, spectra, with_spectrum

PARTS: tuple[Part, ...] = ("principal", "minor")
KINDS = sorted(spectra(8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(20, 20), (90, 90), (90, 200), (200, 90)], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_any_weight_gets_its_triplets(part: Part, shape: tuple[int, int], kind: str) -> None:
    W = with_spectrum(spectra(min(shape))[kind], *shape)
    found = decompose(W, RANK, part)
    judge(W, found.U, found.S, found.Vt, part, values=1e-8, vectors=1e-8)
    assert found.check.residual <= 1e-8
    assert (found.S.diff() <= 0).all()
    assert found.rank == RANK


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (80, 80), (70, 100)])
@pytest.mark.parametrize("part", PARTS)
def test_all_triplets_rebuild_the_weight(part: Part, shape: tuple[int, int]) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = decompose(W, min(shape), part)
    torch.testing.assert_close((found.U * found.S) @ found.Vt, W, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [40, 100])
@pytest.mark.parametrize("part", PARTS)
def test_lower_precision_weights_are_decomposed_as_they_are(
    part: Part, size: int, dtype: torch.dtype
) -> None:
    W = with_spectrum(spectra(size)["stepped"], size, size).to(dtype)
    found = decompose(W, RANK, part)
    judge(W, found.U, found.S, found.Vt, part, values=1e-9, vectors=1e-8)
    assert found.dead == 0


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_scales_neither_overflow_nor_vanish(part: Part, scale: float) -> None:
    W = with_spectrum(spectra(100)["stepped"], 100, 100)
    plain, scaled = decompose(W, RANK, part), decompose(W * scale, RANK, part)
    torch.testing.assert_close(scaled.S / scale, plain.S, rtol=1e-10, atol=0)
    assert scaled.dead == 0


@pytest.mark.parametrize("size", [100, 1100])
@pytest.mark.parametrize("kind", ["stepped", "power decay"])
@pytest.mark.parametrize("part", PARTS)
def test_a_tolerance_of_1e_12_is_met(part: Part, kind: str, size: int) -> None:
    W = with_spectrum(spectra(size)[kind], size, size)
    found = decompose(W, RANK, part, tol=1e-12)
    assert found.check.residual <= 1e-12
    assert found.check.method != "dense"


@pytest.mark.parametrize("part", PARTS)
def test_large_weights_go_through_the_iterative_methods(part: Part) -> None:
    size = 1100
    S = spectra(size)["stepped"]
    W = with_spectrum(S, size, size, seed=7)
    found = decompose(W, RANK, part)
    truth = orthonormal(size, size, seed=8)
    end = slice(None, RANK) if part == "principal" else slice(-RANK, None)
    assert found.check.method == ("krylov" if part == "principal" else "inverse")
    assert found.check.iterations > 0
    assert subspace_distance(found.Vt.T, truth[:, end]) <= 3e-8
    assert (found.S - S[end]).abs().max() <= 1e-10


@pytest.mark.parametrize("kind", ["even", "power decay", "stepped", "fast decay"])
@pytest.mark.parametrize("shape", [(40, 40), (300, 500), (1100, 1100)], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_the_angle_is_within_ten_times_residual_over_gap(
    part: Part, shape: tuple[int, int], kind: str
) -> None:
    k = min(shape)
    S = spectra(k)[kind]
    W = with_spectrum(S, *shape, seed=11)
    found = decompose(W, RANK, part)
    end, edge = (
        (slice(None, RANK), RANK - 1) if part == "principal" else (slice(-RANK, None), -RANK)
    )
    gap = float(S[edge] - S[RANK] if part == "principal" else S[-RANK - 1] - S[edge]) / float(S[0])
    assert found.check.gap == pytest.approx(gap, rel=0.3)
    angle = max(
        subspace_distance(found.U, orthonormal(shape[0], k, 11)[:, end]),
        subspace_distance(found.Vt.T, orthonormal(shape[1], k, 12)[:, end]),
    )
    # The factors of W are exact but for rounding it to float64.
    assert angle <= 10 * max(found.check.residual, 1e-15) / gap


def test_no_gap_is_claimed_where_nothing_is_left_out() -> None:
    for part in PARTS:
        for size in (30, 90):
            assert decompose(torch.eye(size), size, part).check.gap is None
    assert decompose(torch.zeros(90, 90), 3, "minor").check.gap is None


def test_equal_singular_values_have_a_gap_of_zero() -> None:
    for part in PARTS:
        check = decompose(torch.eye(90), RANK, part).check
        assert check.gap == pytest.approx(0, abs=1e-12)
        assert check.residual <= 1e-8


@pytest.mark.parametrize(
    ("shape", "rank", "part", "method"),
    [
        ((64, 900), 8, "principal", "dense"),
        ((384, 384), 8, "principal", "gram"),
        ((384, 384), 8, "minor", "gram"),
        ((192, 576), 8, "minor", "gram"),
        ((1024, 4096), 8, "minor", "gram"),
        ((4096, 11008), 8, "minor", "gram"),
        ((4096, 11008), 8, "principal", "krylov"),
        ((4096, 4096), 8, "principal", "krylov"),
        ((4096, 4096), 8, "minor", "inverse"),
        ((4096, 4096), 2000, "principal", "gram"),
        ((4096, 4096), 2000, "minor", "gram"),
    ],
)
def test_the_shape_decides_the_method(
    shape: tuple[int, int], rank: int, part: Part, method: str
) -> None:
    methods = methods_for(shape, rank, part)
    assert methods[0] == method
    assert methods[-1] == "dense"


def test_few_digits_are_quick_to_have_at_any_rank() -> None:
    for shape, rank, tol in (
        ((768, 768), 128, 0.6),
        ((11008, 4096), 128, 1e-2),
        ((768, 768), 32, 1e-2),
    ):
        assert methods_for(shape, rank, "principal", tol)[0] == "krylov"
        assert methods_for(shape, rank, "minor", tol) == methods_for(shape, rank, "minor")
    W = torch.randn(600, 500, generator=torch.Generator().manual_seed(3))
    found = decompose(W, 24, "principal", tol=1e-2)
    assert found.check.method == "krylov" and found.check.fallback is None
    judge(W, found.U, found.S, found.Vt, "principal", values=1e-2, vectors=1.0, orthonormal=1e-5)
    truth = torch.linalg.svdvals(W.double())[:24]
    assert ((found.S - truth) / truth).abs().max() <= 1e-3


def test_what_is_beyond_few_digits_is_left_to_the_gram_matrix() -> None:
    W = with_spectrum(spectra(1000)["even"], 1000, 1000)
    found = decompose(W, 24, "principal", tol=3e-5)
    assert found.check.method == "gram"
    assert (found.check.fallback or "").startswith("krylov: ")
    judge(W, found.U, found.S, found.Vt, "principal", values=3e-5, vectors=1.0)


@pytest.mark.parametrize(("tol", "digits"), [(1e-2, 1e-5), (1e-3, 1e-5), (1e-8, 1e-12)])
def test_few_digits_of_a_gram_matrix_are_found_in_float32(tol: float, digits: float) -> None:
    W = torch.randn(1200, 1100, generator=torch.Generator().manual_seed(3))
    found = decompose(W, 128, "principal", tol=tol)
    assert found.check.method == "gram" and found.check.fallback is None
    truth = torch.linalg.svdvals(W.double())[:128]
    error = float(((found.S - truth) / truth).abs().max())
    assert error <= digits and (error > 1e-12) == (tol > 2e-5)
    judge(W, found.U, found.S, found.Vt, "principal", values=tol, vectors=1.0, orthonormal=1e-5)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_few_digits_of_extreme_scales(scale: float) -> None:
    W = with_spectrum(spectra(300)["stepped"], 300, 300)
    found = decompose(W * scale, RANK, "principal", tol=1e-3)
    torch.testing.assert_close(found.S / scale, spectra(300)["stepped"][:RANK], rtol=1e-3, atol=0)
    assert found.check.method == "krylov" and found.dead == 0


def test_float32_is_enough_from_2e_5_on() -> None:
    W = with_spectrum(spectra(600)["fast decay"], 600, 600)
    for tol, noise in ((2e-5, 3e-6), (1.9e-5, 600 * torch.finfo(torch.float64).eps)):
        found = decompose(W, 8, "principal", tol=tol)
        assert found.check.residual <= tol
        assert found.dead_below == pytest.approx(noise * float(found.S[0]), rel=1e-3)


def test_dead_triplets_are_counted_in_float32_too() -> None:
    W = with_spectrum(torch.ones(3, dtype=torch.float64), 600, 600)
    assert decompose(W, 8, "principal", tol=1e-2).dead == 5


def test_the_largest_entry_of_each_u_is_positive() -> None:
    for part in PARTS:
        U = decompose(with_spectrum(spectra(80)["even"], 80, 80), RANK, part).U
        assert (U.gather(0, U.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_a_parameter_that_is_not_contiguous_is_read_and_left_alone() -> None:
    W = with_spectrum(spectra(90)["even"], 90, 120)
    parameter = torch.nn.Parameter(W.T.contiguous().T)
    before = parameter.detach().clone()
    found = decompose(parameter, RANK, "principal")
    plain = decompose(W, RANK, "principal")
    assert not found.U.requires_grad and not found.S.requires_grad
    assert torch.equal(parameter.detach(), before)
    torch.testing.assert_close(found.S, plain.S, rtol=1e-12, atol=0)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    W = with_spectrum(spectra(1050)["stepped"], 1050, 1050)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = decompose(W, RANK, "minor")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(decompose(W, RANK, "minor").U, first.U)


_SCRIPT = """
import hashlib, torch
from ailora.linalg import decompose
torch.set_num_threads(1)
torch.manual_seed({seed})
W = torch.randn(1030, 1030, generator=torch.Generator().manual_seed(4))
digest = hashlib.sha256()
for part, size in (("principal", 1030), ("minor", 1030), ("minor", 100), ("principal", 100)):
    found = decompose(W[:size, :size], 4, part)
    for tensor in (found.U, found.S, found.Vt):
        digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
"""


def test_another_process_computes_the_same_bytes() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT.format(seed=seed)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(digests) == 1


# Rank-deficient weights.


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", [(90, 90), (70, 120), (600, 600)], ids=str)
def test_an_all_zero_weight_has_only_dead_triplets(part: Part, shape: tuple[int, int]) -> None:
    found = decompose(torch.zeros(shape), RANK, part)
    judge(torch.zeros(shape), found.U, found.S, found.Vt, part, values=0, vectors=0)
    assert found.dead == RANK


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(30, 30), (90, 90), (90, 150), (600, 600)], ids=str)
def test_dead_triplets_of_a_rank_deficient_weight_are_counted(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    k = min(shape)
    S = torch.where(torch.arange(k) < k - 3, 1.0, 0.0).to(torch.float64)
    W = with_spectrum(S, *shape).to(dtype)
    found = decompose(W, 5, "minor")
    assert found.dead == 3
    judge(W, found.U, found.S, found.Vt, "minor", values=1e-8, vectors=1e-6)


def test_dead_triplets_of_a_principal_part_are_counted() -> None:
    W = with_spectrum(torch.ones(3, dtype=torch.float64), 1100, 1100)
    found = decompose(W, 8, "principal")
    assert found.check.method == "krylov"
    assert found.dead == 5
    assert found.check.residual <= 1e-8


def test_small_but_real_singular_values_are_not_dead() -> None:
    S = torch.ones(90, dtype=torch.float64)
    S[-3:] = torch.tensor([3e-6, 2e-6, 1e-6])
    assert decompose(with_spectrum(S, 90, 90).float(), 3, "minor").dead == 0


# The fallback.


@pytest.mark.parametrize("shape", [(90, 90), (90, 150), (150, 90), (1050, 1050)], ids=str)
@pytest.mark.parametrize("zeros", [1, 6])
def test_an_exactly_singular_weight_needs_no_full_svd(zeros: int, shape: tuple[int, int]) -> None:
    W = with_spectrum(spectra(min(shape))["even"], *shape)
    W = W if shape[0] >= shape[1] else W.T
    W[:, 5 : 5 + zeros] = 0
    W = W if shape[0] >= shape[1] else W.T
    found = decompose(W, RANK, "minor")
    assert found.check.method != "dense"
    assert found.dead == min(zeros, RANK)
    # The left vector of a zero sigma is one of many where W is not square.
    vectors = 1e-8 if shape[0] == shape[1] else 1.0
    judge(W, found.U, found.S, found.Vt, "minor", values=1e-8, vectors=vectors)


@pytest.mark.parametrize("kind", ["fast decay", "rank-deficient"])
@pytest.mark.parametrize("shape", [(90, 200), (200, 90), (90, 90)], ids=str)
def test_what_squaring_loses_of_a_minor_part_is_restored(shape: tuple[int, int], kind: str) -> None:
    W = with_spectrum(spectra(90)[kind], *shape)
    lost = torch.linalg.eigh(W.T @ W if shape[0] >= shape[1] else W @ W.T)[1][:, :RANK]
    Y = W @ lost if shape[0] >= shape[1] else W.T @ lost
    P, s, Qt = torch.linalg.svd(Y, full_matrices=False)
    U, V = (P, lost @ Qt.T) if shape[0] >= shape[1] else (lost @ Qt.T, P)
    with pytest.raises(AssertionError):
        judge(W, U, s, V.T, "minor", values=1e-9, vectors=1e-8)
    found = decompose(W, RANK, "minor")
    assert found.check.method == "gram"
    judge(W, found.U, found.S, found.Vt, "minor", values=1e-9, vectors=1e-8)


def test_a_spectrum_too_flat_to_iterate_on_is_left_to_the_gram_matrix(
    caplog: pytest.LogCaptureFixture,
) -> None:
    W = torch.randn(1100, 1100, generator=torch.Generator().manual_seed(9))
    W = torch.linalg.qr(W).Q  # all singular values equal but for rounding
    with caplog.at_level(logging.INFO, logger="ailora"):
        found = decompose(W + 1e-4 * torch.diag(torch.linspace(0, 1, 1100)), 8, "minor")
    assert found.check.method == "gram"
    assert (found.check.fallback or "").startswith("inverse: ")
    assert str(found.check.fallback) in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("wrong", ["noise", "nan", "repeated"])
def test_a_solver_that_goes_astray_is_replaced(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def astray(*args: object) -> object:
        good = run(*args)  # type: ignore[arg-type]
        if wrong == "repeated":
            first = slice(0, 1)
            return Solution(
                good.U[:, first].repeat(1, RANK),
                good.S[first].repeat(RANK),
                good.Vt[first].repeat(RANK, 1),
                good.sigma_1,
            )
        return good._replace(U=good.U + (1e-6 if wrong == "noise" else float("nan")))

    run = decomposition._run
    monkeypatch.setattr(decomposition, "_run", astray)
    W = with_spectrum(spectra(90)["even"], 90, 90)
    found = decompose(W, RANK, "principal")
    assert found.check.method == "dense"
    assert "residual" in caplog.text
    judge(W, found.U, found.S, found.Vt, "principal", values=1e-12, vectors=1e-10)


def test_a_tolerance_nothing_can_meet_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    found = decompose(with_spectrum(spectra(90)["even"], 90, 90), RANK, "minor", tol=1e-30)
    assert found.check.residual > 1e-30
    assert "full SVD of a 90 x 90 weight: residual" in caplog.text


@pytest.mark.parametrize("exponent", [-60, -17, -15, 15, 17, 60])
def test_a_nearly_singular_weight_of_any_size_needs_no_other_solver(exponent: int) -> None:
    S = spectra(1100)["even"].clone()
    S[-3:] *= 1e-9
    W = (with_spectrum(S, 1100, 1100) * 2.0**exponent).float()
    found = decompose(W, 6, "minor")
    assert found.check.fallback is None
    assert found.check.residual <= 1e-8
    assert found.check.method == "inverse"


def _spoilt(*values: float) -> torch.Tensor:
    W = torch.ones(6, 4)
    W.view(-1)[: len(values)] = torch.tensor(values)
    return W


GOOD = torch.ones(6, 4)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("weight", "arguments", "said"),
    [
        (torch.ones(3), {}, "weight has shape (3,), not 2 dimensions"),
        (torch.ones(2, 3, 4), {}, "weight has shape (2, 3, 4), not 2 dimensions"),
        ([[1.0]], {}, "weight is a list, not a torch.Tensor"),
        (torch.ones(6, 4, dtype=torch.int8), {}, "weight has dtype torch.int8"),
        (torch.ones(6, 4, dtype=torch.complex64), {}, "weight has dtype torch.complex64"),
        (torch.ones(0, 4), {}, "weight is empty, shape (0, 4)"),
        (torch.ones(6, 4, device="meta"), {}, "is on the meta device and holds no values"),
        (torch.ones(6, 4).to_sparse(), {}, "weight has layout torch.sparse_coo"),
        (_spoilt(NAN), {}, "weight has 1 NaN or Inf of 24 entries"),
        (_spoilt(NAN, INF, -INF), {}, "weight has 3 NaN or Inf of 24 entries"),
        (_spoilt(INF).bfloat16(), {}, "weight has 1 NaN or Inf of 24 entries"),
        (GOOD, {"rank": 0}, "rank=0 is out of range for a weight of shape (6, 4); choose 1 to 4"),
        (GOOD, {"rank": -1}, "rank=-1 is out of range"),
        (GOOD, {"rank": 5}, "rank=5 is out of range for a weight of shape (6, 4); choose 1 to 4"),
        (GOOD, {"rank": 2.0}, "rank=2.0 is not an integer"),
        (GOOD, {"rank": True}, "rank=True is not an integer"),
        (GOOD, {"part": "middle"}, "part='middle' is unknown; use 'principal' or 'minor'"),
        (GOOD, {"seed": "x"}, "seed='x' is not an integer"),
        (GOOD, {"tol": 0.0}, "tol=0.0 is not between 0 and 1"),
        (GOOD, {"tol": NAN}, "tol=nan is not between 0 and 1"),
    ],
)
def test_bad_input_is_named(weight: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        decompose(weight, **{"rank": 2, "part": "principal", **arguments})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", PARTS)
def test_a_singular_value_beyond_float64_is_refused(part: Part) -> None:
    W = torch.full((64, 64), 1.7e308, dtype=torch.float64)
    with pytest.raises(UserError, match="singular value is beyond float64"):
        decompose(W, 64, part)
    assert decompose(W, 2, "minor").S.isfinite().all()


@pytest.mark.parametrize("unit", [2.0**-1074, 2.0**-1060])
def test_what_denormal_singular_values_lose_is_in_the_residual(unit: float) -> None:
    W = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    found = decompose(W * unit, 2, "principal")
    lost = float((found.S / unit - torch.linalg.svdvals(W)).abs().max()) / 1.618
    assert lost > 1e-12
    assert found.check.residual == pytest.approx(lost, rel=0.01)


def test_part_may_be_given_by_position() -> None:
    assert decompose(GOOD, 1, "minor").part == "minor"
