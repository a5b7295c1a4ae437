"""The cached `decompose` answers as `linalg.decompose` does, and computes once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ailora import linalg
from ailora.cache import decompose
from ailora.cache.decompositions import key_of
from ailora.errors import UserError
from ailora.linalg.triplets import Part
from tests.cache.conftest import entry_names, same, weight
from tests.linalg.spectra import judge

PARTS: tuple[Part, ...] = ("principal", "minor")
Computed = list[tuple[int, str]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 30), (90, 90), (70, 100)], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_computed_and_read_are_the_bits_of_the_uncached(
    part: Part, shape: tuple[int, int], dtype: torch.dtype, computed: Computed
) -> None:
    W = weight(*shape).to(dtype)
    rank = min(3, *shape)
    uncached = linalg.decompose(W, rank, part)
    first, second = decompose(W, rank, part), decompose(W.clone(), rank, part)
    assert len(computed) == 2, "one uncached, one for the two cached"
    assert same(first, uncached)
    assert same(second, uncached)
    assert second.check == first.check, "the seconds are those of the computation"
    assert second.dead == first.dead


@pytest.mark.parametrize("part", PARTS)
def test_a_smaller_rank_is_a_slice_that_is_right(part: Part, computed: Computed) -> None:
    W = weight(100, 100)
    whole = decompose(W, 16, part)
    small = decompose(W, 4, part)
    assert computed == [(16, part)]
    kept = slice(0, 4) if part == "principal" else slice(12, 16)
    assert torch.equal(small.S, whole.S[kept])
    judge(W, small.U, small.S, small.Vt, part, values=1e-8, vectors=1e-7)
    S = scipy.linalg.svdvals(W.double().numpy())
    gap = float((S[3] - S[4]) / S[0]) if part == "principal" else None
    assert small.check.gap == (gap if gap is None else pytest.approx(gap, rel=1e-6))
    assert small.U.is_contiguous()
    assert small.Vt.is_contiguous()
    # Negative control: the other end of the entry would not pass for the part asked for.
    s = scipy.linalg.svdvals(W.double().numpy())
    wrong = whole.S.flip(0)[kept].flip(0).numpy()
    right = s[:4] if part == "principal" else s[-4:]
    assert np.abs(wrong - right).max() > 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_a_finer_entry_answers_a_coarser_request_and_never_the_reverse(
    part: Part, computed: Computed, folder: Path
) -> None:
    W = weight(300, 300)
    coarse = decompose(W, 8, part, tol=0.1)
    assert same(decompose(W, 8, part, tol=0.1), coarse)
    assert same(decompose(W, 4, part, tol=0.2), decompose(W, 4, part, tol=0.1))
    assert len(computed) == 1
    fine = decompose(W, 8, part)
    assert len(computed) == 2
    judge(W, fine.U, fine.S, fine.Vt, part, values=1e-8, vectors=1e-7)
    assert len(entry_names(folder)) == 1, "the coarser one is replaced"
    assert same(decompose(W, 8, part, tol=0.1), fine)
    assert len(computed) == 2
    decompose(W, 16, part, tol=0.1)  # a larger and coarser one does not stand in the way
    assert same(decompose(W, 8, part), fine)
    decompose(W, 12, part)
    assert len(computed) == 4


@pytest.mark.parametrize("part", PARTS)
def test_a_larger_rank_is_computed_and_leaves_the_smaller_ones_bits(
    part: Part, computed: Computed
) -> None:
    W = weight(100, 100)
    first = decompose(W, 4, part)
    decompose(W, 16, part)
    assert computed == [(4, part), (16, part)]
    assert same(decompose(W, 4, part), first)
    assert same(decompose(W, 8, part), decompose(W, 8, part))
    assert len(computed) == 2


def test_the_same_bytes_of_another_dtype_shape_part_or_seed_are_another_entry(
    folder: Path, computed: Computed
) -> None:
    W = weight(40, 60).to(torch.float16)
    bits = W.view(torch.bfloat16).clone()
    usual = bits.isfinite() & (bits.abs() < 1e3)
    W = torch.where(usual, W, torch.ones_like(W))
    calls: list[Callable[[], linalg.Triplets]] = [
        lambda: decompose(W, 3, "minor"),
        lambda: decompose(W.view(torch.bfloat16), 3, "minor"),
        lambda: decompose(W.reshape(60, 40), 3, "minor"),
        lambda: decompose(W, 3, "principal"),
        lambda: decompose(W, 3, "minor", seed=1),
    ]
    first = [call() for call in calls]
    assert len(computed) == len(entry_names(folder)) == len(calls)
    assert all(same(call(), found) for call, found in zip(calls, first, strict=True))
    assert len(computed) == len(calls)


def test_one_bit_of_the_weight_is_another_entry(computed: Computed) -> None:
    W = weight()
    decompose(W, 3, "minor")
    W[-1, -1] = torch.nextafter(W[-1, -1], torch.tensor(9.0))
    decompose(W, 3, "minor")
    assert len(computed) == 2


def test_another_solver_version_does_not_read_what_an_older_one_wrote(
    monkeypatch: pytest.MonkeyPatch, computed: Computed
) -> None:
    W = weight()
    decompose(W, 3, "minor")
    monkeypatch.setattr(linalg, "SOLVER_VERSION", 10**6, raising=False)
    decompose(W, 3, "minor")
    assert len(computed) == 2


def _spaced(W: Tensor) -> Tensor:
    wide = torch.zeros(W.shape[0], 3 * W.shape[1])
    wide[:, ::3] = W
    return wide[:, ::3]


@pytest.mark.parametrize(
    "laid_out",
    [lambda W: W.T.contiguous().T, _spaced, lambda W: torch.nn.Parameter(W.clone())],
    ids=["transposed", "with gaps", "parameter"],
)
def test_the_layout_in_memory_does_not_matter(
    laid_out: Callable[[Tensor], Tensor], computed: Computed
) -> None:
    W = weight()
    first = decompose(W, 3, "principal")
    assert same(decompose(laid_out(W), 3, "principal"), first)
    assert len(computed) == 1


def test_a_view_that_negates_its_bytes_is_not_mistaken_for_them() -> None:
    W = torch._neg_view(weight())  # the bytes in memory are those of -W
    assert key_of(W, "minor", seed=0) != key_of(-W, "minor", seed=0)
    assert key_of(W, "minor", seed=0) == key_of(W.clone(), "minor", seed=0)


def test_odd_strides_of_a_single_entry_are_fine() -> None:
    W = weight().as_strided((1, 1), (7, 9))
    assert same(decompose(W, 1, "minor"), decompose(W.clone(), 1, "minor"))


def test_results_are_the_callers_own(computed: Computed) -> None:
    W = weight()
    first = decompose(W, 3, "minor")
    kept = first.U.clone()
    decompose(W, 3, "minor").U.zero_()
    assert torch.equal(decompose(W, 3, "minor").U, kept)
    assert len(computed) == 1


def test_a_tensor_subclass_is_not_filed_under_its_bytes(folder: Path, computed: Computed) -> None:
    class Quantised(torch.Tensor):
        pass

    W = weight().as_subclass(Quantised)
    decompose(W, 3, "minor")
    decompose(W, 3, "minor")
    assert len(computed) == 2
    assert not folder.exists()


@pytest.mark.parametrize(
    ("W", "rank", "part"),
    [
        (weight(), 0, "minor"),
        (weight(), 71, "minor"),
        (weight(), True, "minor"),
        (weight(), 3, "middle"),
        (weight().reshape(-1), 3, "minor"),
        (weight() / 0, 3, "minor"),
        (weight().to("meta"), 3, "minor"),
        (weight().int(), 3, "minor"),
    ],
    ids=["rank 0", "rank above", "rank True", "part", "1-D", "Inf", "meta", "int"],
)
def test_bad_input_raises_what_the_uncached_raises_even_beside_an_entry(
    W: Tensor, rank: int, part: Part
) -> None:
    decompose(weight(), 3, "minor")
    with pytest.raises(UserError) as expected:
        linalg.decompose(W, rank, part)
    with pytest.raises(UserError) as raised:
        decompose(W, rank, part)
    assert str(raised.value) == str(expected.value)


def test_the_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    decompose(weight(), 3, "principal")
    decompose(weight(), 3, "principal")
    assert torch.equal(torch.get_rng_state(), before)
