"""W + dW for a whole checkpoint, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ailora.adapters.files.reading import WEIGHTS
from ailora.checkpoints import Checkpoint, Structure, open_checkpoint, read_structure
from ailora.checkpoints.change import Added, LowRank, NewTensor, Replaced, rounding_loss
from ailora.checkpoints.header import FLOATS, Header
from ailora.checkpoints.source import START_FOLDER, opened
from ailora.checkpoints.stream import NewShard, OnProgress, stream
from ailora.checkpoints.work import begin, fingerprint
from ailora.errors import UserError
from ailora.files import sha256_of
from ailora.offline.export import plain_updates, refuse_residual
from ailora.offline.residual import is_residual
from ailora.offline.stock import StockAdapter, Update, read_adapter

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
    """What `merge_adapter` wrote: a model's folder, and a line for each changed tensor."""

    folder: Path
    tensors: tuple[Merged, ...]


def merge_adapter(
    adapter: Path,
    model: str | Path,
    out: Path,
    *,
    rank: int | None = None,
    folded_base: bool = False,
    start: Path | None = None,
    on_progress: OnProgress | None = None,
) -> MergeReport:
    """Write the model with the adapter merged into it; all else is copied byte for byte.

    Arithmetic is fp64, rounded once to each tensor's own dtype. An interrupted run goes on where
    it was when called again.

    Args:
        adapter: Folder of a stock LoRA adapter.
        model: Folder or hub name of the model to merge into.
        out: A new or empty folder, or that of the same call interrupted.
        rank: Compress the updates to this rank first.
        folded_base: As in `ailora.offline.export.export_adapter`: ``model`` is the original.
        start: As there.
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        UserError: Anything that is wrong with the files or does not fit.
    """
    read = read_adapter(adapter)
    checkpoint = open_checkpoint(model)
    _check_form(read, checkpoint, folded_base)
    plain, _ = plain_updates(read, rank, folded_base, start)
    structure = _fitting_structure(checkpoint, plain)
    merging = _Merging(structure, plain)
    plan = {
        "model": fingerprint(checkpoint),
        "adapter": [sha256_of(adapter / name) for name in ("adapter_config.json", WEIGHTS)],
        "rank": rank,
        "folded_base": folded_base,
    }
    work = begin(out, PLAN, plan)
    rows = work.report
    if rows is None:
        report = on_progress or (lambda *_: None)
        streamed = stream(checkpoint, out, work, merging.plan_shard, report)
        rows = tuple(row for row in streamed if "tensor" in row)
        work.finish(rows)
    return MergeReport(folder=out, tensors=tuple(Merged(**row) for row in rows))


class _Merging:
    """W <- W + dW, and tensors that the adapter stores in full in place of the model's."""

    def __init__(self, structure: Structure, adapter: StockAdapter) -> None:
        self.structure = structure
        self.updates = {_stored_weight(structure, up): up for up in adapter.updates.values()}
        self.whole = {
            structure.tensor_of(key.replace(".base_layer.", ".")): value
            for key, value in adapter.whole.items()
        }
        for name, value in self.whole.items():
            if structure.checkpoint.entry(name).shape != tuple(value.shape):
                raise UserError(
                    f"{adapter.folder}: stores {name!r} with shape {tuple(value.shape)}, where the "
                    f"model has {structure.checkpoint.entry(name).shape}; name its own model"
                )

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
                elif name in self.whole:
                    tensors[name] = Replaced(value=self.whole[name], dtype=FLOATS[entry.dtype])
        return NewShard(tensors=tensors, rows=rows)

    def _merge(self, name: str, dtype: torch.dtype, stored: Any) -> tuple[Added, Mapping[str, Any]]:
        update = self.updates[name]
        A, B = update.exact()
        transposed = self.structure.is_transposed(update.name)
        left, right = (A.T.contiguous(), B.T.contiguous()) if transposed else (B, A)
        change = LowRank(left=left, right=right)
        merged = Merged(
            tensor=name,
            dtype=str(dtype).removeprefix("torch."),
            rank=update.rank,
            size=_norm(A, B),
            loss=rounding_loss(change, stored, dtype),
        )
        return Added(change=change, dtype=dtype), asdict(merged)


def _check_form(adapter: StockAdapter, checkpoint: Checkpoint, folded_base: bool) -> None:
    residual = (checkpoint.folder / START_FOLDER).is_dir()
    if residual and (folded_base or not is_residual(adapter)):
        raise UserError(
            f"{checkpoint.folder}: is a residual model that ailora init wrote; "
            + ("leave out --folded-base" if folded_base else "merge into the original model")
        )
    if not residual and not folded_base:
        refuse_residual(adapter)


def _fitting_structure(checkpoint: Checkpoint, adapter: StockAdapter) -> Structure:
    """The model of the class whose module names the adapter has."""
    for task in dict.fromkeys((adapter.config.task_type, None, "FEATURE_EXTRACTION")):
        structure = read_structure(checkpoint, task)
        modules = dict(structure.model.named_modules())
        if all(name in modules for name in adapter.updates):
            return structure
    raise UserError(
        f"{adapter.folder}: adapts {min(adapter.updates)}, which {checkpoint.name!r} does not "
        "have; name the model that it was made for"
    )


def _stored_weight(structure: Structure, update: Update) -> str:
    name = structure.weight_of(update.name)
    shape = structure.checkpoint.entry(name).shape
    transposed = structure.is_transposed(update.name)
    if (shape[::-1] if transposed else shape) != update.shape:
        raise UserError(
            f"the adapter's update of {update.name} is {update.shape}, where the model's weight is "
            f"{shape}; name the model that it was made for"
        )
    other = structure.sharer(update.name)
    if other is not None:
        raise UserError(
            f"{update.name} shares its weight with {other}, which merging would change as well; "
            "save the model untied (tie_word_embeddings=false) first"
        )
    return name


def _norm(A: Tensor, B: Tensor) -> float:
    return float(torch.linalg.norm(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T))


__all__ = ["MergeReport", "Merged", "merge_adapter"]
