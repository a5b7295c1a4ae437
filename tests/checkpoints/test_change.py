"""Low-rank changes of a stored tensor, block by block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ailora.checkpoints import change
from ailora.checkpoints.change import Added, LowRank, rounding_loss


@pytest.fixture(autouse=True)
def _many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "_BLOCK", 100)


def parts(scale: float = 1.0) -> tuple[Tensor, LowRank]:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randn(37, 11, generator=generator)
    left = torch.randn(37, 3, generator=generator, dtype=torch.float64) * scale
    return stored, LowRank(
        left=left, right=torch.randn(3, 11, generator=generator, dtype=torch.float64)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_sum_is_exact_and_rounded_once(dtype: torch.dtype) -> None:
    stored, low = parts()
    stored = stored.to(dtype)
    blocks = list(Added(change=low, dtype=dtype).blocks(stored))
    assert len(blocks) > 3
    expected = (stored.double() + low.left @ low.right).to(dtype)
    assert torch.equal(torch.cat(blocks), expected)


def test_the_loss_is_that_of_rounding_relative_to_the_change() -> None:
    stored, low = parts(scale=1e-2)
    exact = stored.double() + low.left @ low.right
    for dtype in (torch.bfloat16, torch.float32):
        lost = torch.linalg.norm(exact - exact.to(dtype).double())
        expected = float(lost / torch.linalg.norm(low.left @ low.right))
        assert rounding_loss(low, stored, dtype) == pytest.approx(expected, rel=1e-12)


def test_an_overflow_is_an_infinite_loss_and_no_change_is_none() -> None:
    stored, low = parts(scale=1e6)
    assert rounding_loss(low, stored, torch.float16) == float("inf")
    assert rounding_loss(LowRank(left=low.left * 0, right=low.right), stored, torch.bfloat16) == 0
