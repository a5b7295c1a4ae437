"""A LoRA from a fully fine-tuned model: W_tuned - W_base of each linear layer, truncated.

By Eckart, Young and Mirsky no update of that rank is closer. One layer is in memory at a time; what
is found of it is kept beside the results until all are done.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ailora.checkpoints.checkpoint import as_recorded
from ailora.checkpoints.resumable import Record, Row, Work, alone_in_out, begin, fingerprint
from ailora.checkpoints.writer import OnProgress
from ailora.errors import UserError
from ailora.linalg import Triplets, decompose, decompose_share
from ailora.offline.extracted import (
    PLAN,
    Extracted,
    ExtractReport,
    Moved,
    StoredWhole,
    how_far,
    write_files,
)
from ailora.offline.model_pair import ModelPair, is_linear, read_pair
from ailora.offline.plain_lora import Rank, check_rank_or_share

logger = logging.getLogger(__name__)

# The error of the truncation is off by the square of this: 1e-10 of it at 2048 x 2048.
_TOL = 1e-6
_BLOCK = 1 << 21  # values per block: 16 MB in fp64


@alone_in_out
def extract_adapter(
    base: str | Path,
    tuned: str | Path,
    out: Path,
    *,
    rank: Rank,
    modules_to_save: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Write what full fine-tuning changed as a plain LoRA adapter of the base model.

    Every linear layer that changed gets the best update of its rank, fp32 factors of scale 1.
    Norms, biases, embeddings and other tensors that changed are in ``others`` of the report; those
    the base model does not have, and the head of the task, are stored in full as PEFT does.
    An interrupted run goes on where it was when called again.

    Args:
        base: Folder or hub name of the model that fine-tuning began from.
        tuned: Folder or hub name of the fine-tuned model; its class gives names and task type.
        out: A new or empty folder, or that of the same call interrupted.
        rank: An integer: this rank, or the layer's own where that is smaller. A share between 0 and
            1: in each layer the smallest rank that keeps this share of ||dW||_F^2.
        modules_to_save: Modules to store in full, by the ends of their names as in PEFT
            (``"embed_tokens"``); ``"all"``: every tensor that changed and is no linear layer's
            weight, biases included (``bias="all"``, which PEFT writes into the base model).
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        UserError: the rank is none; the two models are one, of different architectures or shapes,
            quantised, incomplete, or hold NaN or infinity; no linear layer changed; the folder is
            not empty or cannot be written.
    """
    check_rank_or_share(rank)
    pair = read_pair(base, tuned)
    whole = StoredWhole(pair, modules_to_save)
    plan = {
        "base": fingerprint(pair.base.checkpoint),
        "tuned": fingerprint(pair.tuned.checkpoint),
        "rank": rank,
        "modules_to_save": list(modules_to_save),
    }
    work = begin(out, PLAN, plan, [pair.base.checkpoint, pair.tuned.checkpoint])
    rows: Sequence[Row] | None = work.report
    layers = _layers(pair, whole)
    name = as_recorded(pair.base.checkpoint.name)
    if rows is None:
        rows = _extract(pair, layers, whole, work, rank, on_progress or (lambda *_: None))
        report = _report(out, name, layers, rows)
        write_files(report, pair, whole, work)
        work.finish(rows)
    report = _report(out, name, layers, rows)
    _warn(report, pair)
    return report


def _report(out: Path, base: str, layers: Sequence[str], rows: Sequence[Row]) -> ExtractReport:
    modules = tuple(Extracted(**row) for row in rows if "module" in row)
    return ExtractReport(
        folder=out,
        base=base,
        rank=max(one.rank for one in modules),
        modules=modules,
        others=tuple(Moved(**row) for row in rows if "tensor" in row),
        unchanged=len(layers) - len(modules),
    )


def _layers(pair: ModelPair, whole: StoredWhole) -> list[str]:
    """Linear layers that can have an update: not whole, not resized, not tied to embeddings."""
    model = pair.model
    others = {
        id(module.weight)
        for module in model.modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and not is_linear(module)
    }
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if is_linear(module)
        and id(module.weight) not in others
        and f"{name}.weight" in pair.names
        and pair.is_comparable(f"{name}.weight")
        and not whole.holds(name)
    ]


def _extract(
    pair: ModelPair,
    layers: Sequence[str],
    whole: StoredWhole,
    work: Work,
    rank: Rank,
    on_progress: OnProgress,
) -> list[Row]:
    """The rows of the report; factors and rows of finished layers stay with the work."""
    weights = [f"{layer}.weight" for layer in layers]
    others = [name for name in (*pair.names, *pair.unread) if name not in set(weights)]
    sizes = {name: math.prod(pair.entry(name).shape) for name in (*weights, *others)}
    counted = _Counted(on_progress, sum(sizes.values()))
    rows: list[Row] = []
    for layer, weight in zip(layers, weights, strict=True):
        record = work.record(layer)
        if record is None:
            with _abandoned_if_wrong(work):
                record = _extract_layer(pair, layer, rank)
            work.add_record(layer, record)
        rows += record.rows
        counted(sizes[weight])
    with _abandoned_if_wrong(work):
        if not rows:
            raise UserError(
                f"{pair.tuned.checkpoint.folder}: no linear layer differs from those of "
                f"{pair.base.checkpoint.folder}; there is nothing to extract"
            )
        changed = {}
        for name in others:
            change = pair.change(name)
            if change is not None:
                changed[name] = change
            counted(sizes[name])
    whole.take(changed)
    stored = {*whole.parameters, *whole.biases}
    moved = [
        Moved(tensor=name, size=change.size, relative=change.relative, stored=name in stored)
        for name, change in changed.items()
    ]
    return [*rows, *map(asdict, moved)]


class _Counted:
    """Adds up values for a progress callback."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self.on_progress, self.done, self.total = on_progress, 0, total

    def __call__(self, count: int) -> None:
        self.done += count
        self.on_progress("extracting", self.done, self.total)


@contextmanager
def _abandoned_if_wrong(work: Work) -> Iterator[None]:
    """Leave no traces of a run whose input is wrong."""
    try:
        yield
    except UserError:
        work.abandon()
        raise


def _extract_layer(pair: ModelPair, layer: str, rank: Rank) -> Record:
    """The factors of one layer, and its row; neither if it did not change."""
    weight = f"{layer}.weight"
    if pair.is_same(weight):
        return Record(rows=(), tensors={})
    dW = pair.difference(weight)
    found = _truncated(dW, rank)
    root = found.S.sqrt()
    A = (root[:, None] * found.Vt).float().contiguous()
    B = (found.U * root).float().contiguous()
    size, base_size = float(torch.linalg.vector_norm(dW)), pair.base_norm(weight)
    row = Extracted(
        module=layer,
        rank=found.rank,
        size=size,
        relative=size / base_size if base_size else None,
        frobenius=_lost(dW, A, B) / size,
        spectral=_first_cut_off(found, min(dW.shape)),
    )
    return Record(rows=(asdict(row),), tensors={"A": A, "B": B})


def _truncated(dW: Tensor, rank: Rank) -> Triplets:
    if isinstance(rank, float):
        return decompose_share(dW, rank, tol=_TOL)
    return decompose(dW, min(rank, *dW.shape), "principal", tol=_TOL)


def _lost(dW: Tensor, A: Tensor, B: Tensor) -> float:
    """||dW - B A||_F, a block of rows at a time."""
    step, lost = max(1, _BLOCK // dW.shape[1]), 0.0
    wide = A.double()
    for start in range(0, dW.shape[0], step):
        rows = slice(start, start + step)
        lost += float((dW[rows] - B[rows].double() @ wide).square().sum())
    return math.sqrt(lost)


def _first_cut_off(found: Triplets, full: int) -> float | None:
    """The largest singular value left out, relative to the first of all; `Check.gap` says it."""
    if found.rank == full:
        return 0.0
    if found.check.gap is None:
        return None
    return max(0.0, float(found.S[-1] / found.S[0]) - found.check.gap)


def _warn(report: ExtractReport, pair: ModelPair) -> None:
    left_out = [one for one in report.others if not one.stored]
    if left_out:
        most = max(left_out, key=lambda one: math.inf if one.relative is None else one.relative)
        logger.warning(
            "%d tensors changed that are no linear layer's weight, and the adapter leaves them out "
            "(most: %s%s); --modules-to-save all stores them in full",
            len(left_out),
            most.tensor,
            how_far(most) or ", of another shape than the base's",
        )
    settings = pair.differing_settings()
    if settings:
        logger.warning(
            "the two config.json differ in %s: an adapter carries weights alone, so set this on "
            "the base model too",
            "; ".join(settings),
        )
    layer = report.modules[0].module
    base, tuned = (value.dtype for value in pair.values(f"{layer}.weight"))
    if tuned.itemsize < base.itemsize:
        logger.warning(
            "the base model is stored as %s and the tuned one as %s: its rounding counts as change",
            *(str(dtype).removeprefix("torch.") for dtype in (base, tuned)),
        )


__all__ = ["ExtractReport", "Extracted", "Moved", "extract_adapter"]
