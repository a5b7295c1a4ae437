"""How a file is changed: bytes, the tree of a JSON, a safetensors header, an archive, a pickle."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import json
import lzma
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Change = Callable[[random.Random, bytes], bytes]
DEEP = 100_000
PAYLOAD = "/tmp/ailora-hostile-code-ran"  # noqa: S108 - made by code that must never run


class Code:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (PAYLOAD,)


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -0.0, 0.5),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "0",
        "../../etc/passwd",
        "/etc/passwd",
        "\x00",
        "é" * 99,
    ),
    *([], {}, [[]], {"": None}, [1, 2, 3], ["q", "v"], {"a": {"b": []}}, "(" * 300, "(a+)+$"),
    *(
        "(.+)+!",
        10**9,
        10**7,
        10**400,
        "someone/kernels",
        dict.fromkeys(map(str, range(20_000)), 2),
    ),
)


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flipped, cut, grown or foreign bytes."""
    kind = rng.randrange(9)
    spot = rng.randrange(len(data) + 1)
    if kind <= 2 and data:
        found = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
        return bytes(found)
    if kind == 3:
        return data[:spot]
    if kind == 4:
        return data[:spot] + rng.randbytes(rng.choice((1, 8, 300))) + data[spot:]
    if kind == 5:
        return data[:spot] + data[spot + rng.randrange(1, 64) :]
    if kind == 6:
        return data[:spot] + rng.choice((b"\xff\xfe", b"\xc3\x28", b"\x00")) + data[spot:]
    if kind == 7:
        return pickle.dumps(Code())
    return rng.choice((b"", rng.randbytes(64), b"[" * DEEP, b"\xff" * 8 + data, data + data))


def change_tree(rng: random.Random, tree: Any) -> Any:
    """One to three nodes of a JSON value: other values, names, or nothing."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spots = _spots(tree)
        if not spots:
            return copy.deepcopy(rng.choice(VALUES))
        owner, key = rng.choice(spots)
        kind = rng.randrange(6)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[rng.choice(("", "x", "../x", str(key) + ".x", "__class__", "(.+)+!"))] = (
                owner.pop(key)
            )
        elif kind == 2:
            owner[key] = [owner[key]]
        elif kind == 3:
            other, name = rng.choice(spots)
            owner[key] = copy.deepcopy(other[name]) if _has(other, name) else None
        else:
            owner[key] = copy.deepcopy(rng.choice(VALUES))  # which later cases draw too
    return tree


def _has(owner: Any, key: Any) -> bool:
    return key in owner if isinstance(owner, dict) else key < len(owner)


def _spots(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        keys = (
            node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        )
        for key in list(keys):
            found.append((node, key))
            todo.append(node[key])
    return found


def change_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON file whose tree, names or depth are others."""
    if rng.random() < 0.25:
        return change_bytes(rng, data)
    text = json.dumps(change_tree(rng, json.loads(data)))
    kind = rng.randrange(12)
    if kind == 0 and text.startswith("{") and len(text) > 2:  # a name twice
        return f"{{{text[1:-1]},{text[1:].partition(',')[0].rstrip('}')}}}".encode()
    if kind == 1:
        return text.replace("null", "[" * DEEP + "]" * DEEP, 1).encode()
    if kind == 2:
        return text.replace("1", "1" * 5000, 1).encode()
    return text.encode("utf-8", "replace")


def change_lines(rng: random.Random, data: bytes) -> bytes:
    """A text file by lines: doubled, gone, swapped, or with other values."""
    if rng.random() < 0.25:
        return change_bytes(rng, data)
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        spot = rng.randrange(len(lines))
        kind = rng.randrange(6)
        words = (b"\x00", b'"', b"'", b"[", b"{", b"nan", b"1e999", b"-1", b"../..", b"=", b"\r")
        if kind == 0:
            lines.insert(spot, lines[spot])
        elif kind == 1 and len(lines) > 1:
            del lines[spot]
        elif kind == 2:
            lines[spot] = rng.choice((b"[" * DEEP, b"x" * 2_000_000, b"\xff\xfe", b'"' * 3))
        else:
            at = rng.randrange(len(lines[spot]) + 1)
            lines[spot] = (
                lines[spot][:at] + rng.choice(words) + lines[spot][at + rng.randrange(3) :]
            )
    return b"\n".join(lines)


def change_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file: its header's tree, its names, its values or types."""
    kind = rng.random()
    if kind < 0.2:
        return change_bytes(rng, data)
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind < 0.45:
        text = change_json(rng, json.dumps(header).encode())
        claimed = rng.choice((len(text),) * 8 + (2**40, 2**63, 10**8, 0))
        return struct.pack("<Q", claimed) + text + rest
    return _other_tensors(rng, data)


def _other_tensors(rng: random.Random, data: bytes) -> bytes:  # noqa: C901
    from safetensors.torch import load, save

    tensors = load(data)
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
    if not tensors:
        return data
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(sorted(tensors))
        value = tensors[name]
        kind = rng.randrange(9)
        if kind == 0:
            odd = torch.full(value.shape, rng.choice((float("nan"), float("inf"), 0.0)))
            tensors[name] = odd.to(value.dtype)  # whole numbers have some other value for NaN
        elif kind == 1:
            other = (torch.int64, torch.bool, torch.float16, torch.uint8, torch.complex64)
            tensors[name] = value.to(rng.choice(other))
        elif kind == 2:
            tensors[name] = value.reshape(-1)
        elif kind == 3:
            tensors[name] = value[:0] if value.ndim else value.reshape(1)
        elif kind == 4 and len(tensors) > 1:
            del tensors[name]
        elif kind == 5:
            tensors[rng.choice(("../x", "", name + ".x", "x.lora_A.weight", "__proto__"))] = value
        elif kind == 6:
            tensors[name] = value.T.contiguous() if value.ndim == 2 else value * 1e30
        elif kind == 7:
            tensors[name] = torch.cat([value, value]) if value.ndim else value
        else:
            tensors[name] = (
                value * rng.choice((1e30, -1, 1e-300)) if value.is_floating_point() else value
            )
        tensors = {key: one.contiguous().clone() for key, one in tensors.items()}
    return save(tensors, metadata=metadata)


def change_zip(rng: random.Random, data: bytes) -> bytes:
    """An archive: bytes, names that lead elsewhere, links, and members that swell."""
    if rng.random() < 0.4:
        return change_bytes(rng, data)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content, made = old.read(info), zipfile.ZipInfo(info.filename)
            kind = rng.randrange(6)
            if kind == 0:
                made.filename = rng.choice(("../x", "/tmp/x", "a/../../x", "x" * 300))  # noqa: S108
            elif kind == 1:
                made.external_attr = 0o120777 << 16
            elif kind == 2:
                made.compress_type = zipfile.ZIP_DEFLATED
                content = b"\0" * rng.choice((10**6, 10**7, 3 * 10**8))
            elif kind == 3:
                content = change_bytes(rng, content)
            elif kind == 4:
                continue
            new.writestr(made, content)
    return out.getvalue()


def _packing(pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> Change:
    """Compressed text: bytes, other lines, or a text that swells."""

    def change(rng: random.Random, data: bytes) -> bytes:
        kind = rng.random()
        if kind < 0.5:
            return change_bytes(rng, data)
        if kind < 0.9:
            return pack(change_lines(rng, unpack(data)))
        return pack(b"\0" * 2**20) * rng.choice((1, 64))

    return change


def change_state(rng: random.Random, data: bytes) -> bytes:
    """What ``torch.save`` wrote: bytes, other trees, and pickles that run code."""
    kind = rng.random()
    if kind < 0.3:
        return change_bytes(rng, data)
    tree = torch.load(io.BytesIO(data), weights_only=False)  # our own bytes
    out = io.BytesIO()
    if kind < 0.4:
        torch.save({**tree, "x": Code()} if isinstance(tree, dict) else Code(), out)
    else:
        torch.save(_change_state_tree(rng, tree), out)
    return out.getvalue()


def _change_state_tree(rng: random.Random, tree: Any) -> Any:
    spots = _spots(tree)
    owner, key = rng.choice(spots)
    new: Any = rng.choice(VALUES)
    if isinstance(owner[key], torch.Tensor) and rng.random() < 0.7:
        value = owner[key]
        new = rng.choice(
            (
                value.reshape(-1)[:0],
                value.reshape(-1),
                value.to(torch.int8),
                value.double() * torch.nan,
            )
        )
    if rng.random() < 0.15:
        del owner[key]
    else:
        owner[key] = new
    return tree


BY_SUFFIX: dict[str, Change] = {
    ".json": change_json,
    ".safetensors": change_safetensors,
    ".toml": change_lines,
    ".jsonl": change_lines,
    ".csv": change_lines,
    ".tsv": change_lines,
    ".md": change_lines,
    ".whl": change_zip,
    ".gz": _packing(gzip.compress, gzip.decompress),
    ".bz2": _packing(bz2.compress, bz2.decompress),
    ".xz": _packing(lzma.compress, lzma.decompress),
    ".pt": change_state,
    ".pth": change_state,
}


def change(rng: random.Random, path: Path, outside: Path) -> str:
    """Change one file in its place; what was done to it, in a word."""
    kind = rng.random()
    if kind < 0.02:
        path.unlink()
        return "removed"
    if kind < 0.04:
        path.unlink()
        path.symlink_to(rng.choice((outside, path, path.parent, path.with_name("nowhere"))))
        return "link"
    if kind < 0.05:
        path.unlink()
        path.mkdir()
        return "folder"
    data = path.read_bytes()
    path.write_bytes(BY_SUFFIX.get(path.suffix, change_bytes)(rng, data))
    return "bytes"


_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_MARKS = {".arrow": (b"ARROW1", b"\xff\xff\xff\xff"), ".feather": b"ARROW1", ".parquet": b"PAR1"}


def parses(path: Path) -> bool:
    """Whether the form of a file is whole: its JSON, its header, its list of members, its text."""
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", data[:8])
            json.loads(data[8 : 8 + length] if length < 10**8 else b"")
        elif path.suffix in (".whl", ".pt", ".pth"):
            with zipfile.ZipFile(path) as archive:
                archive.namelist()
        elif path.suffix in _UNPACK:
            _UNPACK[path.suffix](data)
        elif path.suffix in _MARKS:
            return data.startswith(_MARKS[path.suffix])
        else:
            data.decode("utf-8")
    except (OSError, ValueError, RecursionError, EOFError):
        return False
    except (struct.error, zipfile.BadZipFile, lzma.LZMAError, zlib.error):
        return False
    return True
