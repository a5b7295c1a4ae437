"""A whole checkpoint written again, shard by shard, with some tensors changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from ailora.checkpoints.checkpoint import INDEX, Checkpoint, opened
from ailora.checkpoints.header import NAMES, Entry, Header, header_bytes
from ailora.checkpoints.resumable import Record, Row, Work, require_room
from ailora.errors import UserError
from ailora.files import open_file, parse_json, write_atomic, write_json, written_whole
from ailora.linalg import LowRank

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

OnBytes = Callable[[int], None]

_BUFFER = 8 << 20  # bytes copied at once
_BLOCK = 1 << 21  # values per block: 16 MB in fp64


@dataclass(frozen=True, kw_only=True)
class NewShard:
    """New values for some tensors of a shard, and what the report says of them."""

    tensors: Mapping[str, NewTensor] = field(repr=False)
    rows: Sequence[Row]


def stream(
    checkpoint: Checkpoint,
    target: Path,
    work: Work,
    plan_shard: Callable[[Header], NewShard],
    on_progress: OnProgress,
) -> list[Row]:
    """Write ``checkpoint`` to ``target``, the shards first and the index last.

    Args:
        checkpoint: The files to read.
        target: Folder to write to.
        work: Knows which shards an earlier run finished; those are left as they are.
        plan_shard: Says what is new in a shard; called for a shard just before it is written.
        on_progress: Told of the bytes written.

    Returns:
        The rows of the report, in the order of the shards.

    Raises:
        UserError: The disk is full or the folder cannot be written. What is there is whole, and
            the same run goes on from it.
    """
    sizes = {shard.path.name: shard.size for shard in checkpoint.shards}
    missing = [name for name in sizes if not (target / name).exists()]
    require_room(work.out, sum(sizes[name] for name in missing))
    total, done = sum(sizes.values()), 0
    rows: list[Row] = []
    for shard in checkpoint.shards:
        name = shard.path.name
        record = work.record(name)
        if record is None or not (target / name).exists():
            record = _write(
                shard, target / name, work, plan_shard, _Counter(on_progress, done, total)
            )
        rows += record.rows
        done += sizes[name]
        on_progress("writing", done, total)
    _copy_other_files(checkpoint, target, widened=any(_is_widened(row) for row in rows))
    _write_index(checkpoint, target, rows)
    return rows


def _write(
    shard: Header,
    target: Path,
    work: Work,
    plan_shard: Callable[[Header], NewShard],
    count: Callable[[int], None],
) -> Record:
    new = plan_shard(shard)
    growth = sum(entry.nbytes for entry in new_entries(shard, new.tensors)) - sum(
        entry.nbytes for entry in shard.entries.values()
    )
    added = {name: shard.path.name for name in new.tensors if name not in shard.entries}
    grown = [{"grown": growth, "added": added}] if growth or added else []
    record = Record(rows=[*new.rows, *grown], tensors={})
    work.add_record(shard.path.name, record)
    write_shard(shard, target, new.tensors, count)
    return record


class _Counter:
    """Adds up bytes for a progress callback."""

    def __init__(self, on_progress: OnProgress, done: int, total: int) -> None:
        self.on_progress, self.done, self.total = on_progress, done, total

    def __call__(self, count: int) -> None:
        self.done += count
        self.on_progress("writing", min(self.done, self.total), self.total)


def _is_widened(row: Row) -> bool:
    return row.get("dtype") == "float32" and row.get("stored") in ("bfloat16", "float16")


def _copy_other_files(checkpoint: Checkpoint, target: Path, *, widened: bool) -> None:
    for path in checkpoint.other_files():
        data = path.read_bytes()
        if widened and path.name == "config.json":
            data = _as_float32(data)
        write_atomic(target / path.name, data)


def _as_float32(config: bytes) -> bytes:
    """The config.json of a 16-bit model, some of whose tensors are now float32.

    ``from_pretrained`` casts every weight to the dtype that config.json names.
    """
    content = parse_json(config)
    named = [
        (part, key)
        for part in (content, *(value for value in content.values() if isinstance(value, dict)))
        for key in ("dtype", "torch_dtype")
        if part.get(key) in ("bfloat16", "float16")
    ]
    if not named and not {"dtype", "torch_dtype"} & content.keys():
        named = [(content, "dtype")]  # without one, from_pretrained takes the first tensor's
    for part, key in named:
        part[key] = "float32"
    return (json.dumps(content, indent=2) + "\n").encode("utf-8") if named else config


def _write_index(checkpoint: Checkpoint, target: Path, rows: Sequence[Row]) -> None:
    if checkpoint.index is None:
        return
    grown = sum(int(row.get("grown", 0)) for row in rows)
    added = {name: shard for row in rows for name, shard in row.get("added", {}).items()}
    if not (grown or added):
        write_atomic(target / INDEX, (checkpoint.folder / INDEX).read_bytes())
        return
    index: dict[str, Any] = dict(checkpoint.index)
    metadata = dict(index.get("metadata") or {})
    metadata["total_size"] = grown + sum(
        entry.nbytes for shard in checkpoint.shards for entry in shard.entries.values()
    )
    places = {**index["weight_map"], **added}
    write_json(target / INDEX, {**index, "metadata": metadata, "weight_map": places})


# --- A file of tensors that are made one at a time ----------------------------------------------


def write_tensors(
    target: Path,
    shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    make: Callable[[str], Tensor],
) -> None:
    """Write a safetensors file without holding more than one of its tensors.

    Args:
        target: File to write; an existing one is replaced once the new one is whole.
        shapes: Data type and shape of each tensor.
        make: The values of a tensor of that type and shape; called once for each, wide types first.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    entries, start = [], 0
    for name, (dtype, shape) in sorted(shapes.items(), key=_widest_first):
        stop = start + torch.Size(shape).numel() * dtype.itemsize
        entries.append(Entry(name=name, dtype=NAMES[dtype], shape=shape, start=start, stop=stop))
        start = stop
    with written_whole(target) as out:
        out.write(header_bytes(entries, {"format": "pt"}))
        for entry in entries:
            out.write(_bytes(make(entry.name)))


def _widest_first(item: tuple[str, tuple[torch.dtype, tuple[int, ...]]]) -> tuple[int, str]:
    name, (dtype, _) = item
    return -dtype.itemsize, name


# --- One shard ------------------------------------------------------------------------------


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
        open_file(source.path) as file,
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


# --- New values of a tensor, made one block of rows at a time ------------------------------------


class NewTensor(Protocol):
    """What is written in place of a stored tensor of the same shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type it is written in."""

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """Its rows in order, one block at a time.

        Args:
            stored: The old tensor: anything that slices by rows, as safetensors' slices do.
        """


@dataclass(frozen=True, kw_only=True)
class Added:
    """A low-rank change of a stored tensor (of its shape), written in ``dtype``."""

    change: LowRank
    dtype: torch.dtype

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """The changed rows, computed in fp64 and rounded once."""
        return (exact.to(self.dtype) for exact, _ in _summed(self.change, stored))


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A whole tensor, cast to ``dtype``: in place of a stored one, or one more."""

    value: Tensor = field(repr=False)
    dtype: torch.dtype

    def blocks(self, stored: Any) -> Iterator[Tensor]:
        """All of it."""
        del stored
        yield self.value.to(self.dtype)


def as_stored(change: LowRank, *, transposed: bool) -> LowRank:
    """The change of a weight W as its file has W: transposed in GPT-2's Conv1D."""
    if not transposed:
        return change
    return LowRank(A=change.B.T.contiguous(), B=change.A.T.contiguous(), scale=change.scale)


def rounding_loss(change: LowRank, stored: Any, dtype: torch.dtype) -> float:
    """What rounding to ``dtype`` costs: ||exact - rounded||_F / ||change||_F.

    Returns:
        The ratio; infinite where a value overflows, 0 where nothing is added.
    """
    lost = size = 0.0
    for exact, added in _summed(change, stored):
        lost += float((exact - exact.to(dtype).double()).square().sum())
        size += float(added.square().sum())
    return (lost / size) ** 0.5 if size else 0.0


def _summed(change: LowRank, stored: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows of the exact sum, and of what was added, both fp64."""
    A, B = change.exact()
    rows, columns = change.shape
    step = max(1, _BLOCK // columns)
    for start in range(0, rows, step):
        added = B[start : start + step] @ A
        yield stored[start : start + step].double() + added, added
