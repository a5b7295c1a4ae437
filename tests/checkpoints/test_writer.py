"""Shards written again: what is changed, what is copied, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ailora.checkpoints import writer
from ailora.checkpoints.header import Header, read_header
from ailora.checkpoints.writer import (
    Added,
    Replaced,
    as_stored,
    rounding_loss,
    write_shard,
)
from ailora.errors import UserError
from ailora.linalg import LowRank


@pytest.fixture
def source(tmp_path: Path) -> Header:
    torch.manual_seed(0)
    tensors = {
        "odd": torch.randn(3).to(torch.bfloat16),
        "weight": torch.randn(6, 4).to(torch.bfloat16),
        "last": torch.randn(5, 2).to(torch.bfloat16),
        "ids": torch.arange(3),
    }
    save_file(tensors, tmp_path / "old.safetensors", metadata={"format": "pt", "note": "kept"})
    return read_header(tmp_path / "old.safetensors")


def added(dtype: torch.dtype) -> Added:
    change = LowRank(A=torch.full((1, 4), 0.25), B=torch.ones(6, 1))
    return Added(change=change, dtype=dtype)


def test_without_changes_the_file_is_the_same_byte_for_byte(source: Header, tmp_path: Path) -> None:
    written: list[int] = []
    write_shard(source, tmp_path / "new", {}, written.append)
    assert (tmp_path / "new").read_bytes() == source.path.read_bytes()
    assert sum(written) == source.size


def test_a_change_leaves_order_metadata_and_every_other_byte(
    source: Header, tmp_path: Path
) -> None:
    write_shard(source, tmp_path / "new", {"weight": added(torch.bfloat16)})
    header, old = read_header(tmp_path / "new"), load_file(source.path)
    assert list(header.entries.values()) == list(source.entries.values())
    assert header.metadata == {"format": "pt", "note": "kept"}
    new = load_file(tmp_path / "new")
    assert torch.equal(new["weight"], (old["weight"].double() + 0.25).bfloat16())
    assert not torch.equal(new["weight"], old["weight"])
    assert all(torch.equal(new[name], old[name]) for name in ("odd", "last", "ids"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wider_tensor_can_be_read_beside_odd_sized_ones(
    source: Header, tmp_path: Path, dtype: torch.dtype
) -> None:
    write_shard(source, tmp_path / "new", {"weight": added(dtype)})
    new, old = load_file(tmp_path / "new"), load_file(source.path)
    assert new["weight"].dtype == dtype
    assert torch.equal(new["weight"].double(), old["weight"].double() + 0.25)
    assert all(torch.equal(new[name], old[name]) for name in ("odd", "last", "ids"))
    for entry in read_header(tmp_path / "new").entries.values():
        width = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2}[entry.dtype]
        assert entry.start % width == 0


def test_a_tensor_can_be_replaced(source: Header, tmp_path: Path) -> None:
    value = torch.randn(5, 2)
    write_shard(source, tmp_path / "new", {"last": Replaced(value=value, dtype=torch.bfloat16)})
    assert torch.equal(load_file(tmp_path / "new")["last"], value.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_tensor_can_be_added(source: Header, tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.randn(3, 3)
    write_shard(source, tmp_path / "new", {"head": Replaced(value=value, dtype=dtype)})
    new, old = load_file(tmp_path / "new"), load_file(source.path)
    assert torch.equal(new.pop("head"), value.to(dtype))
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in old)
    read_header(tmp_path / "new")  # no gap, no overlap


@dataclass(frozen=True)
class Failing:
    dtype: torch.dtype = torch.bfloat16

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        yield stored[:2]
        raise OSError(28, "No space left on device")


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(
    source: Header, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "new").write_bytes(b"before")
    with pytest.raises(UserError, match=r"new: No space left on device; free some space"):
        write_shard(source, folder / "new", {"weight": Failing()})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"new": b"before"}


@pytest.fixture(autouse=True)
def _many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_BLOCK", 100)


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
