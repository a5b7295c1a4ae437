"""Where the tensors of a safetensors file lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ailora.checkpoints.header import header_bytes, read_header
from ailora.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.randn(7).to(torch.bfloat16),
        "scalar": torch.tensor(2.0),
        "none": torch.zeros(0, 4),
        "ids": torch.arange(6),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "by": "ü"})
    return tmp_path / "x.safetensors"


def test_every_tensor_is_where_the_header_says(file: Path) -> None:
    header, data = read_header(file), file.read_bytes()
    with safe_open(file, framework="pt") as opened:
        assert header.entries.keys() == set(opened.keys())
        for name, entry in header.entries.items():
            tensor = opened.get_tensor(name)
            start = header.data_start + entry.start
            raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert data[start : start + entry.nbytes] == raw
            assert entry.shape == tuple(tensor.shape)
    assert header.size == len(data)
    assert header.metadata == {"format": "pt", "by": "ü"}


def test_a_header_written_again_is_read_by_safetensors_as_the_same(file: Path) -> None:
    header, data = read_header(file), file.read_bytes()
    again = file.with_name("again.safetensors")
    head = header_bytes(list(header.entries.values()), header.metadata)
    assert len(head) % 8 == 0
    again.write_bytes(head + data[header.data_start :])
    with safe_open(file, framework="pt") as old, safe_open(again, framework="pt") as new:
        assert new.metadata() == old.metadata()
        assert all(torch.equal(new.get_tensor(name), old.get_tensor(name)) for name in old.keys())  # noqa: SIM118


def broken(kind: str, data: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    if kind == "cut off in the data":
        return data[:-1]
    if kind == "cut off in the header":
        return data[: 8 + length // 2]
    if kind == "cut off in the length":
        return data[:5]
    if kind == "empty":
        return b""
    if kind == "longer than it says":
        return data + b"\0"
    if kind == "not safetensors at all":
        return b"PK\3\4" * 100
    content = json.loads(data[8 : 8 + length])
    content["b"]["data_offsets"][0] += 4  # a gap
    head = json.dumps(content).encode()
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


@pytest.mark.parametrize(
    "kind",
    [
        "cut off in the data",
        "cut off in the header",
        "cut off in the length",
        "empty",
        "longer than it says",
        "not safetensors at all",
        "a gap",
    ],
)
def test_a_broken_file_is_refused_in_one_line_with_its_name(file: Path, kind: str) -> None:
    file.write_bytes(broken(kind, file.read_bytes()))
    with pytest.raises(UserError, match=r"x\.safetensors.*again") as caught:
        read_header(file)
    assert "\n" not in str(caught.value)
