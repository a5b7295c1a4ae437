"""Many weights at once: each as by itself, against SciPy's SVD in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ailora.errors import UserError
from ailora.linalg import batch, decompose, decompose_batch
from ailora.linalg.gram import projected
from ailora.linalg.triplets import Part
from tests.linalg.spectra import RANK, judge, spectra, with_spectrum

PARTS: tuple[Part, ...] = ("principal", "minor")


def _stack(m: int, n: int) -> Tensor:
    """One weight of each spectrum, a zero, a tiny and a huge one, and one with repeated rows."""
    found = [with_spectrum(S, m, n, seed=3) for S in spectra(min(m, n)).values()]
    repeated = found[0].clone()
    repeated[1] = repeated[0]
    return torch.stack(
        [*found, torch.zeros(m, n).double(), found[0] * 1e-90, found[0] * 1e90, repeated]
    )


@pytest.mark.parametrize("shape", [(60, 60), (60, 140), (140, 60), (20, 8), (1, 5)], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_each_weight_gets_its_own_end_of_the_spectrum(part: Part, shape: tuple[int, int]) -> None:
    rank = min(RANK, *shape)
    weights = _stack(*shape) if min(shape) > 2 * RANK else torch.randn(3, *shape).double()
    found = decompose_batch(weights, rank, part)
    assert len(found) == len(weights)
    for W, one in zip(weights, found, strict=True):
        # The other vector of a zero sigma is one of many where W is not square.
        unique = shape[0] == shape[1] or float(one.S[-1]) > 1e-12 * float(W.norm())
        judge(W, one.U, one.S, one.Vt, part, values=1e-8, vectors=1e-7 if unique else 1.0)
        alone = decompose(W, rank, part)
        assert one.check.residual <= 1e-8
        assert one.dead == alone.dead
        assert one.check.gap == pytest.approx(alone.check.gap, abs=1e-7)
        torch.testing.assert_close(one.S, alone.S, rtol=0, atol=1e-8 * float(alone.S[0]))


def test_what_squaring_loses_is_found_by_itself() -> None:
    S = torch.linspace(1, 0.5, 90, dtype=torch.float64)
    S[-RANK:] = torch.tensor([4e-8, 3e-8, 2e-8, 1e-8])
    weights = torch.stack([with_spectrum(spectra(90)["even"], 90, 90), with_spectrum(S, 90, 90)])
    lost = torch.linalg.eigh(weights[1].T @ weights[1])[1][:, :RANK].flip(1)
    P, s, V = projected(weights[1], lost)
    with pytest.raises(AssertionError):
        judge(weights[1], P, s, V.T, "minor", values=1e-12, vectors=1e-7)
    for W, one in zip(weights, decompose_batch(weights, RANK, "minor"), strict=True):
        assert one.check.fallback is None
        judge(W, one.U, one.S, one.Vt, "minor", values=1e-12, vectors=1e-7)


@pytest.mark.parametrize("scale", [1e160, 1e300])
@pytest.mark.parametrize("part", PARTS)
def test_a_weight_whose_square_overflows_is_no_matter_to_the_others(
    part: Part, scale: float
) -> None:
    weights = torch.stack([with_spectrum(spectra(20)["even"], 30, 20, seed=s) for s in range(3)])
    weights[1] *= scale
    for W, one in zip(weights, decompose_batch(weights, RANK, part), strict=True):
        assert one.check.fallback is None
        unit = scale if float(W.max()) > 1e9 else 1.0
        judge(W / unit, one.U, one.S / unit, one.Vt, part, values=1e-12, vectors=1e-7)


@pytest.mark.parametrize("part", PARTS)
def test_weights_of_usual_size_are_taken_together(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "decompose", None)  # not called
    weights = torch.stack([with_spectrum(spectra(70)["even"], 90, 70, seed=s) for s in range(3)])
    for W, one in zip(weights, decompose_batch(weights, RANK, part), strict=True):
        assert (one.check.method, one.check.iterations) == ("gram", 0)
        judge(W, one.U, one.S, one.Vt, part, values=1e-12, vectors=1e-7)


def test_an_eigensolver_that_gives_up_leaves_each_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    weights = torch.randn(3, 30, 20, generator=torch.Generator().manual_seed(3)).double()
    monkeypatch.setattr(batch, "_ends", fails)
    assert [one.check.method for one in decompose_batch(weights, 2, "minor")] == ["dense"] * 3


@pytest.mark.parametrize("shape", [(35, 30), (70, 161)], ids=str)
@pytest.mark.parametrize("rank", [10, 25])
def test_a_square_below_zero_by_rounding_is_a_zero(shape: tuple[int, int], rank: int) -> None:
    rows = 0.5 ** torch.arange(shape[0], dtype=torch.float64)[:, None]
    W = rows * torch.triu(torch.full(shape, -0.1, dtype=torch.float64), 1)
    W.diagonal()[:] = rows[: min(shape), 0]
    (found,) = decompose_batch(W[None], rank, "minor", tol=1e-3)
    judge(W, found.U, found.S, found.Vt, "minor", values=1e-3, vectors=1.0)


def test_a_wrong_eigenvector_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.stack([with_spectrum(spectra(40)["even"], 50, 40, seed=s) for s in range(3)])
    right = batch.projected

    def wrong(W: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        P, S, V = right(W, X)
        P[1, :, 0], V[1, :, 0] = P[1, :, 1], V[1, :, 1]  # a triplet counted twice
        return P, S, V

    monkeypatch.setattr(batch, "projected", wrong)
    for W, one in zip(weights, decompose_batch(weights, RANK, "minor"), strict=True):
        judge(W, one.U, one.S, one.Vt, "minor", values=1e-9, vectors=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_and_other_strides_are_read_and_left_alone(dtype: torch.dtype) -> None:
    weights = torch.randn(40, 3, 70, generator=torch.Generator().manual_seed(1)).to(dtype)
    weights = weights.permute(1, 2, 0)
    before = weights.clone()
    for W, one in zip(weights, decompose_batch(weights, RANK, "minor"), strict=True):
        judge(W, one.U, one.S, one.Vt, "minor", values=1e-9, vectors=1e-8)
    assert torch.equal(weights, before)


def test_chunks_and_large_weights_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.randn(5, 30, 20, generator=torch.Generator().manual_seed(2))
    whole = decompose_batch(weights, RANK, "principal")
    for name, value in (("_AT_ONCE", 1300), ("_TOGETHER_UP_TO", 10)):
        monkeypatch.setattr(batch, name, value)
        for one, other in zip(whole, decompose_batch(weights, RANK, "principal"), strict=True):
            torch.testing.assert_close(one.U, other.U, rtol=0, atol=1e-9)


def test_an_empty_batch_is_an_empty_list() -> None:
    assert decompose_batch(torch.empty(0, 4, 4), 2, "minor") == []


@pytest.mark.parametrize(
    ("weights", "rank", "said"),
    [
        (torch.ones(3, 4), 1, r"weights is \(3, 4\), not a tensor of 3 dimensions"),
        ([torch.ones(3, 4)], 1, "weights is list, not a tensor of 3 dimensions"),
        (torch.ones(2, 3, 4), 5, "rank=5 is out of range for a weight of shape"),
        (torch.ones(2, 3, 4).int(), 1, "weight has dtype torch.int32"),
        (torch.ones(2, 0, 4), 1, "weight is empty"),
        (torch.tensor([1.0, float("nan")])[:, None, None], 1, r"weights\[1\] has NaN or Inf"),
        (torch.tensor([1.0, float("-inf")])[:, None, None], 1, r"weights\[1\] has NaN or Inf"),
    ],
)
def test_bad_input_is_named(weights: Tensor, rank: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        decompose_batch(weights, rank, "minor")
