"""A whole checkpoint written again, shard by shard, with some tensors changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ailora.checkpoints.change import NewTensor
from ailora.checkpoints.header import FLOATS, Header
from ailora.checkpoints.source import INDEX, Checkpoint
from ailora.checkpoints.work import Record, Row, Work, require_room
from ailora.checkpoints.writer import new_entries, write_shard
from ailora.files import write_atomic, write_json

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


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
        The lines of the report, in the order of the shards.

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
    _copy_beside(checkpoint, target, widened=any(_is_widened(row) for row in rows))
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


def _copy_beside(checkpoint: Checkpoint, target: Path, *, widened: bool) -> None:
    for path in checkpoint.beside():
        data = path.read_bytes()
        if widened and path.name == "config.json":
            data = _as_float32(data)
        write_atomic(target / path.name, data)


def _as_float32(config: bytes) -> bytes:
    """The config.json of a 16-bit model, some of whose tensors are now float32.

    ``from_pretrained`` casts every weight to the dtype that config.json names.
    """
    content = json.loads(config)
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


def float_name(entry_dtype: str) -> str:
    """Torch's name of a stored float type: ``"bfloat16"`` for ``"BF16"``."""
    return str(FLOATS[entry_dtype]).removeprefix("torch.")
