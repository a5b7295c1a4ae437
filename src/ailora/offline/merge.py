"""W + dW for a whole checkpoint, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ailora.adapters.folder import AdapterFolder
from ailora.adapters.record import CONFIG, WEIGHTS
from ailora.checkpoints import Checkpoint, Structure, open_checkpoint
from ailora.checkpoints.checkpoint import START_FOLDER, opened
from ailora.checkpoints.header import FLOATS, Header
from ailora.checkpoints.resumable import alone_in_out, begin, fingerprint
from ailora.checkpoints.writer import (
    Added,
    NewShard,
    NewTensor,
    OnProgress,
    Replaced,
    as_stored,
    rounding_loss,
    stream,
)
from ailora.errors import UserError
from ailora.files import parse_json, read_text, sha256_of, write_json
from ailora.linalg import LowRank
from ailora.offline.export import plain_updates, refuse_residual
from ailora.offline.plain_lora import Rank, base_copies, read_plain, without_copies
from ailora.offline.residual import is_residual, warn_if_moved
from ailora.offline.whole_modules import fitting_structure, place_whole_modules, stored_value

PLAN = "ailora_merge.json"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """One tensor of a merged model.

    Attributes:
        tensor: Its name in the checkpoint.
        dtype: Its data type, which stays.
        rank: Rank of dW.
        size: ||dW||_F.
        loss: ||W + dW - what is written||_F / ||dW||_F: the one rounding to ``dtype``.
    """

    tensor: str
    dtype: str
    rank: int
    size: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What `merge_adapter` wrote: a model's folder, and one row per changed tensor."""

    folder: Path
    tensors: tuple[Merged, ...]


@alone_in_out
def merge_adapter(
    adapter: Path,
    model: str | Path,
    out: Path,
    *,
    rank: Rank | None = None,
    folded_base: bool = False,
    start: Path | None = None,
    on_progress: OnProgress | None = None,
) -> MergeReport:
    """Write the model with the adapter merged into it; all else is copied byte for byte.

    Arithmetic is fp64, rounded once to each tensor's own dtype. Modules that the adapter stores
    whole take the place of the model's, see `ailora.offline.whole_modules`. An interrupted run goes
    on where it was when called again.

    Args:
        adapter: Folder of a stock LoRA adapter.
        model: Folder or hub name of the model to merge into.
        out: A new or empty folder, or that of the same call interrupted.
        rank: Compress the updates first, as in `ailora.offline.export.export_adapter`.
        folded_base: As in `ailora.offline.export.export_adapter`; ``model`` is then the original.
        start: As in `ailora.offline.export.export_adapter`.
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        UserError: Anything that is wrong with the files or does not fit.
    """
    read = read_plain(adapter)
    checkpoint = open_checkpoint(model)
    _check_form(read, checkpoint, folded_base)
    plain, _ = plain_updates(read, rank, folded_base, start, checkpoint.folder)
    structure = fitting_structure(checkpoint, plain)
    _check_copies(structure, plain)
    merging = _Merging(structure, _with_heads(structure, without_copies(plain)))
    plan = {
        "model": fingerprint(checkpoint),
        "adapter": [sha256_of(adapter / name) for name in (CONFIG, WEIGHTS)],
        "rank": rank,
        "folded_base": folded_base,
    }
    work = begin(out, PLAN, plan, [checkpoint, read])
    rows = work.report
    if rows is None:
        report = on_progress or (lambda *_: None)
        streamed = stream(checkpoint, out, work, merging.plan_shard, report)
        rows = tuple(row for row in streamed if "tensor" in row)
        merging.write_config(out / "config.json")
        work.finish(rows)
    warn_if_moved(read)
    return MergeReport(folder=out, tensors=tuple(Merged(**row) for row in rows))


class _Merging:
    """W <- W + dW, and tensors that the adapter stores in full."""

    def __init__(self, structure: Structure, adapter: AdapterFolder) -> None:
        self.structure = structure
        self.updates = {_stored_weight(structure, adapter, name): name for name in adapter.updates}
        self.changes = adapter.updates
        self.whole = place_whole_modules(structure, adapter)

    def plan_shard(self, shard: Header) -> NewShard:
        """The new tensors of a shard, and what rounding them costs."""
        tensors: dict[str, NewTensor] = {}
        rows = []
        with opened(shard.path) as file:
            for name, entry in shard.entries.items():
                if name in self.updates:
                    stored = file.get_slice(name)
                    tensors[name], row = self._merge(name, FLOATS[entry.dtype], stored)
                    rows.append(row)
                elif name in self.whole.replaced:
                    value = self.whole.replaced[name]
                    tensors[name] = Replaced(value=value, dtype=FLOATS[entry.dtype])
        if shard is self.structure.checkpoint.shards[-1]:
            dtype = self._usual_dtype()
            for name, value in self.whole.added.items():
                tensors[name] = Replaced(value=value, dtype=dtype)
        return NewShard(tensors=tensors, rows=rows)

    def write_config(self, path: Path) -> None:
        """Change what the model's new tensors need in the copied config.json."""
        if self.whole.config:
            content = parse_json(read_text(path))
            write_json(path, {**content, **self.whole.config})

    def _usual_dtype(self) -> torch.dtype:
        """Data type of most floating-point tensors, for those that are added."""
        entries = self.structure.checkpoint.where.values()
        found = [e.dtype for shard in entries for e in shard.entries.values() if e.dtype in FLOATS]
        return FLOATS[max(dict.fromkeys(found), key=found.count)]

    def _merge(self, name: str, dtype: torch.dtype, stored: Any) -> tuple[Added, Mapping[str, Any]]:
        module = self.updates[name]
        update = self.changes[module]
        change = as_stored(update, transposed=self.structure.is_transposed(module))
        merged = Merged(
            tensor=name,
            dtype=str(dtype).removeprefix("torch."),
            rank=update.rank,
            size=float(update.norm()),
            loss=rounding_loss(change, stored, dtype),
        )
        return Added(change=change, dtype=dtype), asdict(merged)


def _check_form(adapter: AdapterFolder, checkpoint: Checkpoint, folded_base: bool) -> None:
    residual = (checkpoint.folder / START_FOLDER).is_dir()
    if residual and (folded_base or not is_residual(adapter)):
        raise UserError(
            f"{checkpoint.folder}: is a residual model that ailora init wrote; "
            + ("leave out --folded-base" if folded_base else "merge into the original model")
        )
    if not residual and not folded_base:
        refuse_residual(adapter)


def _check_copies(structure: Structure, adapter: AdapterFolder) -> None:
    """Raise a UserError if the base that an adapter carries a copy of is another than the model."""
    for key in sorted(base_copies(adapter)):
        copy, parameter = adapter.whole[key], key.replace(".base_layer.", ".")
        stored = stored_value(structure, parameter)
        if stored.shape != copy.shape or not torch.equal(stored.to(copy.dtype), copy):
            raise UserError(
                f"{adapter.folder}: was trained on a model with another {parameter} (shape "
                f"{tuple(copy.shape)}, here {tuple(stored.shape)}): its vocabulary was resized, or "
                "it is another model; save that model and merge into it"
            )


def _with_heads(structure: Structure, adapter: AdapterFolder) -> AdapterFolder:
    """The factors of an output layer tied to the embeddings as its whole weight, which unties it.

    Raises:
        UserError: the model does not have the weight that they are of.
    """
    model: Any = structure.model
    updates, whole = dict(adapter.updates), dict(adapter.whole)
    for name, update in adapter.updates.items():
        if model.get_submodule(name) is model.get_output_embeddings() and structure.sharer(name):
            weight = stored_value(structure, f"{name}.weight")
            _check_shape(name, update, weight.shape)
            whole[f"{name}.weight"] = weight.double() + update.matrix()
            del updates[name]
    return replace(adapter, updates=updates, whole=whole)


def _check_shape(module: str, update: LowRank, shape: Sequence[int]) -> None:
    if tuple(shape) != update.shape:
        raise UserError(
            f"the adapter's update of {module} is {update.shape}, where the model's weight is "
            f"{tuple(shape)}; name the model that it was made for"
        )


def _stored_weight(structure: Structure, adapter: AdapterFolder, module: str) -> str:
    """Name of the stored tensor that a module's update is added to."""
    update = adapter.updates[module]
    parameter = f"{module}.weight"
    other = structure.sharer(module)
    if other is not None:
        raise UserError(
            f"{module} shares its weight with {other}, which merging would change as well; "
            "save the model untied (tie_word_embeddings=false) first"
        )
    if parameter not in structure.stored and parameter not in structure.converted:
        raise UserError(
            f"{structure.checkpoint.folder}: does not hold the weight of {module}, which the "
            "adapter changes; name the model that it was made for"
        )
    name = structure.tensor_of(parameter)
    shape = structure.checkpoint.entry(name).shape
    _check_shape(module, update, shape[::-1] if structure.is_transposed(module) else shape)
    return name


__all__ = ["MergeReport", "Merged", "merge_adapter"]
