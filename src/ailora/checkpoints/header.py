"""The header of a safetensors file: which tensor lies where.

The format is eight bytes with the header's length, the header as JSON, and the data. Only the
header is read here; tensors are decoded by safetensors itself, or copied without decoding.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ailora.errors import MALFORMED, UserError
from ailora.files import Seen, open_file, parse_json, seen

FLOATS: dict[str, torch.dtype] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
NAMES = {dtype: name for name, dtype in FLOATS.items()}

_LENGTH = struct.Struct("<Q")
_LARGEST = 100_000_000  # what safetensors itself accepts


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: Its name in the checkpoint.
        dtype: As safetensors writes it (``"BF16"``).
        shape: Its shape.
        start: First byte, counted from the start of the data.
        stop: One past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size of its data in bytes."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Header:
    """A file's tensors in the order of their data, and its metadata.

    Attributes:
        path: The file.
        entries: The tensors, by name.
        metadata: The strings stored with them; None if the file has none.
        data_start: Bytes before the data.
        seen: The file as it was when the header was read.
    """

    path: Path
    entries: Mapping[str, Entry] = field(repr=False)
    metadata: Mapping[str, str] | None
    data_start: int
    seen: Seen

    @property
    def size(self) -> int:
        """Size of the whole file in bytes."""
        return self.data_start + max((entry.stop for entry in self.entries.values()), default=0)


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Raises:
        UserError: The file is missing, unreadable, cut off or not a safetensors file.
    """
    try:
        with open_file(path) as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > _LARGEST:
                raise ValueError("its first bytes are no header length")
            content = parse_json(stream.read(length))
            now = seen(stream.fileno())
        metadata = content.pop("__metadata__", None)
        entries = sorted((_entry(name, about) for name, about in content.items()), key=_position)
        found = Header(
            path=path,
            entries={entry.name: entry for entry in entries},
            metadata=metadata,
            data_start=_LENGTH.size + length,
            seen=now,
        )
        _check_whole(found, now[1])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy it again") from error
    except (struct.error, *MALFORMED) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); copy or download it again"
        ) from error
    return found


def header_bytes(entries: Sequence[Entry], metadata: Mapping[str, str] | None) -> bytes:
    """The bytes before the data of a file with these entries, padded to a multiple of eight."""
    content: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    for entry in entries:
        content[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.stop],
        }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _LENGTH.size)
    return _LENGTH.pack(len(text)) + text


def float_name(dtype: str) -> str:
    """Torch's name of a stored float type: ``"bfloat16"`` for ``"BF16"``."""
    return str(FLOATS[dtype]).removeprefix("torch.")


def _entry(name: str, about: Mapping[str, Any]) -> Entry:
    start, stop = about["data_offsets"]
    shape = tuple(about["shape"])
    if any(type(size) is not int or size < 0 for size in (*shape, start, stop)):
        raise ValueError(f"the shape or place of {name} is no row of counts")
    return Entry(name=name, dtype=str(about["dtype"]), shape=shape, start=start, stop=stop)


def _position(entry: Entry) -> tuple[int, int]:
    return entry.start, entry.stop


def _check_whole(header: Header, size: int) -> None:
    reached = 0
    for entry in header.entries.values():
        if entry.start != reached or entry.stop < entry.start:
            raise ValueError(f"a gap or an overlap at {entry.name}")
        reached = entry.stop
    if header.size != size:
        raise ValueError(f"{size} bytes where its header says {header.size}")
