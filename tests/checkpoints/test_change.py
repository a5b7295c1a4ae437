"""Low-rank changes of a stored tensor, block by block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ailora.checkpoints import change
from ailora.checkpoints.change import Added, as_stored, rounding_loss
from ailora.linalg.lowrank import LowRank


@pytest.fixture(autouse=True)
def _many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "_BLOCK", 100)


def parts(scale: float = 1.0) -> tuple[Tensor, LowRank]:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randn(37, 11, generator=generator)
    B = torch.randn(37, 3, generator=generator, dtype=torch.float64)
    A = torch.randn(3, 11, generator=generator, dtype=torch.float64)
    return stored, LowRank(A=A, B=B, scale=scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_sum_is_exact_and_rounded_once(dtype: torch.dtype) -> None:
    stored, low = parts()
    stored = stored.to(dtype)
    blocks = list(Added(change=low, dtype=dtype).blocks(stored))
    assert len(blocks) > 3
    expected = (stored.double() + low.matrix()).to(dtype)
    assert torch.equal(torch.cat(blocks), expected)


def test_the_loss_is_that_of_rounding_relative_to_the_change() -> None:
    stored, low = parts(scale=1e-2)
    exact = stored.double() + low.matrix()
    for dtype in (torch.bfloat16, torch.float32):
        lost = torch.linalg.norm(exact - exact.to(dtype).double())
        expected = float(lost / torch.linalg.norm(low.matrix()))
        assert rounding_loss(low, stored, dtype) == pytest.approx(expected, rel=1e-12)


def test_an_overflow_is_an_infinite_loss_and_no_change_is_none() -> None:
    stored, low = parts(scale=1e6)
    assert rounding_loss(low, stored, torch.float16) == float("inf")
    assert rounding_loss(LowRank(A=low.A, B=low.B * 0), stored, torch.bfloat16) == 0


def test_a_transposed_weight_changes_by_the_transpose() -> None:
    _, low = parts(scale=0.7)
    assert as_stored(low, transposed=False) is low
    assert torch.allclose(as_stored(low, transposed=True).matrix(), low.matrix().T, rtol=1e-14)
