"""Writes a shard again with some tensors replaced, the others copied byte for byte."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from torch import Tensor

from ailora.checkpoints.change import NewTensor, Replaced
from ailora.checkpoints.header import NAMES, Entry, Header, header_bytes
from ailora.checkpoints.source import opened
from ailora.errors import UserError
from ailora.files import unwritable, usual_mode, written_whole

OnBytes = Callable[[int], None]

_BUFFER = 8 << 20


def write_shard(
    source: Header, target: Path, new: Mapping[str, NewTensor], on_bytes: OnBytes | None = None
) -> None:
    """Write ``source`` to ``target`` with other values for the tensors in ``new``.

    The file appears under its name when it is whole and on disk. Order and metadata stay, unless a
    tensor's dtype changes or one is added: then wider tensors come first, as safetensors itself
    sorts them, since readers need each tensor's bytes aligned to its dtype.

    Args:
        source: Header of the file to read.
        target: File to write; an existing one is replaced.
        new: By tensor name; a `Replaced` of a name that ``source`` does not have is added.
        on_bytes: Called with the number of bytes after each piece written.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    report = on_bytes or (lambda _: None)
    entries = new_entries(source, new)
    with (
        written_whole(target) as out,
        source.path.open("rb") as file,
        opened(source.path) as slices,
    ):
        if new:
            out.write(header_bytes(entries, source.metadata))
        else:
            _copy(file, out, 0, source.data_start, report)
        for entry in entries:
            if entry.name in new:
                old = slices.get_slice(entry.name) if entry.name in source.entries else None
                for block in new[entry.name].blocks(old):
                    report(out.write(_bytes(block)))
            else:
                there = source.entries[entry.name]
                _copy(file, out, source.data_start + there.start, there.nbytes, report)


def new_entries(source: Header, new: Mapping[str, NewTensor]) -> list[Entry]:
    """The entries of the file that `write_shard` writes, in order."""
    changed = [_retyped(entry, new.get(entry.name)) for entry in source.entries.values()]
    added = [_entry(name, new[name]) for name in new if name not in source.entries]
    if added or any(entry.dtype != source.entries[entry.name].dtype for entry in changed):
        changed += added
        changed.sort(key=_width, reverse=True)  # stable: equal widths keep their order
    placed, start = [], 0
    for entry in changed:
        placed.append(replace(entry, start=start, stop=start + entry.nbytes))
        start += entry.nbytes
    return placed


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when it is complete; an older one is replaced.

    It and its files get the modes that the umask gives: ``mkdtemp`` and safetensors, which writes
    to a temporary file of its own, make theirs private.

    Raises:
        UserError: It cannot be made, written or renamed, or the disk is full.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp")
        temporary = Path(made)
        yield temporary
        for path in (temporary, *temporary.rglob("*")):
            path.chmod(usual_mode(folder=path.is_dir()))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    except SafetensorError as error:  # its writer hides the system's error in words
        raise UserError(
            f"cannot write {folder}: {error}; free some space and run it again"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _retyped(entry: Entry, new: NewTensor | None) -> Entry:
    if new is None:
        return entry
    size = torch.Size(entry.shape).numel() * new.dtype.itemsize
    return replace(entry, dtype=NAMES[new.dtype], stop=entry.start + size)


def _entry(name: str, new: NewTensor) -> Entry:
    if not isinstance(new, Replaced):
        raise TypeError(f"{name}: a change needs a stored tensor")
    size = new.value.numel() * new.dtype.itemsize
    return Entry(
        name=name, dtype=NAMES[new.dtype], shape=tuple(new.value.shape), start=0, stop=size
    )


def _width(entry: Entry) -> float:
    return entry.nbytes / (torch.Size(entry.shape).numel() or 1)


def _copy(file: BinaryIO, out: BinaryIO, start: int, count: int, report: OnBytes) -> None:
    file.seek(start)
    while count:
        piece = file.read(min(count, _BUFFER))
        if not piece:
            raise UserError(f"{file.name}: ended early; copy it again")
        report(out.write(piece))
        count -= len(piece)


def _bytes(block: Tensor) -> memoryview:
    return block.contiguous().reshape(-1).view(torch.uint8).numpy().data
