"""One decomposition as one safetensors file that says by itself whether it is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ailora.cache.keys import bytes_of
from ailora.linalg import Check, Triplets

_TENSORS = ("U", "S", "Vt")
_PLAIN = tuple(f.name for f in fields(Triplets) if f.name not in (*_TENSORS, "check"))


class DamagedEntryError(Exception):
    """The file is not what was written."""


def to_bytes(triplets: Triplets) -> bytes:
    """The triplets and their check, with a SHA-256 over both."""
    tensors = {name: getattr(triplets, name).detach().cpu().contiguous() for name in _TENSORS}
    plain = {name: getattr(triplets, name) for name in _PLAIN}
    record = json.dumps({"check": asdict(triplets.check), **plain})
    return save(tensors, metadata={"record": record, "sha256": _digest(record, tensors)})


def read(path: Path, *, shape: tuple[int, int], rank: int) -> Triplets:
    """The triplets that `to_bytes` wrote, on the CPU.

    Args:
        path: The file.
        shape: (m, n) of the weight they should be of.
        rank: How many there should be.

    Raises:
        DamagedEntryError: Truncated, altered, not finite, or of another weight.
        OSError: It is not there or cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied: what safetensors gives is the file itself, mapped into memory.
            tensors = {name: file.get_tensor(name).clone() for name in _TENSORS}
    except SafetensorError as error:
        raise DamagedEntryError(str(error)) from error
    record = metadata.get("record", "")
    _check_whole(metadata.get("sha256", ""), record, tensors)
    _check_fits(tensors, shape, rank)
    try:
        plain = json.loads(record)
        return Triplets(**tensors, check=Check(**plain.pop("check")), **plain)
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedEntryError(f"its record is not one of ours: {error}") from error


def _digest(record: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in _TENSORS:
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def _check_whole(expected: str, record: str, tensors: dict[str, Tensor]) -> None:
    if _digest(record, tensors) != expected:
        raise DamagedEntryError("its checksum does not match")


def _check_fits(tensors: dict[str, Tensor], shape: tuple[int, int], rank: int) -> None:
    m, n = shape
    shapes = {"U": (m, rank), "S": (rank,), "Vt": (rank, n)}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float64 or tuple(tensor.shape) != shapes[name]:
            raise DamagedEntryError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not float64 {shapes[name]}"
            )
        if not tensor.isfinite().all():
            raise DamagedEntryError(f"{name} has NaN or Inf")
