"""Shards written again: what is changed, what is copied, and what a failure leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ailora.checkpoints.change import Added, Replaced
from ailora.checkpoints.header import Header, read_header
from ailora.checkpoints.writer import whole_folder, write_shard
from ailora.errors import UserError
from ailora.linalg.lowrank import LowRank


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


def test_a_folder_that_fails_in_the_middle_is_not_there(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="free some space"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_and_its_files_have_the_modes_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole_folder(tmp_path / "out") as folder:
            save_file({"a": torch.zeros(1)}, folder / "a.safetensors")  # makes a private file
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_an_unwritable_place_is_named() -> None:
    with (
        pytest.raises(UserError, match="cannot write /proc/nobody/x"),
        whole_folder(Path("/proc/nobody/x")),
    ):
        pass
