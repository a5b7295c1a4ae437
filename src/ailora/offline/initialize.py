"""A start as files, for trainers out of our reach: an adapter, and the model it is to train on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ailora.adapters import AILoRAConfig
from ailora.adapters.starts import Start
from ailora.checkpoints import Checkpoint, Structure, open_checkpoint, read_structure
from ailora.checkpoints.change import Added, LowRank, rounding_loss
from ailora.checkpoints.header import FLOATS, Header
from ailora.checkpoints.source import START_FOLDER, opened
from ailora.checkpoints.stream import NewShard, OnProgress, float_name, stream
from ailora.checkpoints.work import Record, Row, Work, begin, fingerprint, require_empty
from ailora.errors import UserError
from ailora.files import write_json
from ailora.offline.starting import make_factors, save_anchored, save_folded, starts_of

logger = logging.getLogger(__name__)

PLAN = "ailora_init.json"
ORIGIN = "ailora_origin.json"
MOST_LOST = 0.01

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS.values()}


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What folding a start into one stored tensor cost.

    Attributes:
        tensor: Its name in the checkpoint.
        roles: The roles that were taken from it, ``"q"``, or ``"q+v"`` of a fused layer.
        stored: Data type it had.
        dtype: Data type it has in the residual model.
        loss_stored: ||W - (W_r + s B A)||_F / ||s B A||_F with W_r rounded to ``stored``.
        loss: The same with W_r as written.
    """

    tensor: str
    roles: str
    stored: str
    dtype: str
    loss_stored: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What `init_files` wrote.

    Attributes:
        adapter: Folder of the adapter.
        model: Folder of the residual model to train it on; None for an anchored adapter, whose
            model is the original.
        folded: One line a changed tensor; empty for an anchored adapter.
    """

    adapter: Path
    model: Path | None
    folded: tuple[Folded, ...]


def init_files(
    model: str | Path,
    out: Path,
    config: AILoRAConfig,
    *,
    dtype: str = "auto",
    on_progress: OnProgress | None = None,
) -> InitReport:
    """Start an adapter from a checkpoint's files, without loading the model.

    With ``config.base == "folded"`` writes ``out/model`` (the residual model W - s B A, eqs. 3 and
    5 of the paper; all other tensors byte for byte) and ``out/adapter`` (a stock LoRA adapter of
    rank r that makes it the original again), for any trainer. An interrupted run goes on where it
    was when called again, and ends in the same bytes. With ``"anchored"`` writes the adapter alone
    into ``out``, as ``ailora.get_peft_model(...).save_pretrained(out)`` would.

    Args:
        model: A folder with config.json and safetensors, or a hub name.
        out: A new or empty folder, or that of the same call interrupted.
        config: What each role starts from. Gaussian starts are drawn as after
            ``torch.manual_seed(0)``. ``task_type`` decides the class of the model, whose module
            names the adapter has; None takes the class that config.json names.
        dtype: Of the changed tensors: ``"auto"`` keeps a tensor's own where rounding loses less
            than 1 % of s B A, and float32 elsewhere; or ``"bfloat16"``, ``"float16"``,
            ``"float32"``, ``"float64"``.
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        UserError: Anything that is wrong with the model's files, the folder or the config.
    """
    _check(config, dtype)
    structure = read_structure(open_checkpoint(model), config.task_type)
    _refuse_residual(structure.checkpoint)
    report = on_progress or (lambda *_: None)
    if config.base == "anchored":
        require_empty(out)
        save_anchored(structure, config, out, _weights(report))
        return InitReport(adapter=out, model=None, folded=())
    return _init_folded(structure, out, config, dtype, report)


def _init_folded(
    structure: Structure, out: Path, config: AILoRAConfig, dtype: str, report: OnProgress
) -> InitReport:
    checkpoint = structure.checkpoint
    plan = {"model": fingerprint(checkpoint), "dtype": dtype, **asdict(config)}
    target, adapter = out / "model", out / "adapter"
    work = begin(out, PLAN, plan)
    rows: Sequence[Row] | None = work.report
    if rows is None:
        starts = starts_of(structure, config, _factors(work, structure, config, report))
        folding = _Folding(structure, starts, dtype)
        streamed = stream(checkpoint, target, work, folding.plan_shard, report)
        rows = [row for row in streamed if "tensor" in row]
        folders = (target / START_FOLDER, adapter)
        save_folded(structure, config, starts, folders, str(target.absolute()))
        write_json(target / START_FOLDER / ORIGIN, {"base_model": checkpoint.name})
        work.finish(rows)
    folded = tuple(Folded(**row) for row in rows)
    _report_loss(folded)
    return InitReport(adapter=adapter, model=target, folded=folded)


def _factors(
    work: Work, structure: Structure, config: AILoRAConfig, report: OnProgress
) -> Mapping[str, Tensor]:
    """The starting factors, found once in a run however often it is interrupted."""
    record = work.record("starts")
    if record is None:
        try:
            record = Record(rows=(), tensors=make_factors(structure, config, _weights(report)))
            work.add_record("starts", record)
        except UserError:
            work.abandon()
            raise
    return record.tensors


class _Folding:
    """W <- W - s B A for the tensors that have a start."""

    def __init__(self, structure: Structure, starts: Sequence[Start], dtype: str) -> None:
        self.dtype = dtype
        self.starts: dict[str, list[Start]] = {}
        for start in starts:
            if start.spectral:
                name = structure.weight_of(start.name)
                self.starts.setdefault(name, []).append(start)
        self.structure = structure

    def plan_shard(self, shard: Header) -> NewShard:
        """The new tensors of a shard, and what rounding them costs."""
        tensors, rows = {}, []
        with opened(shard.path) as file:
            for name in shard.entries:
                if name in self.starts:
                    stored = file.get_slice(name)
                    tensors[name], row = self._fold(name, shard.entries[name].dtype, stored)
                    rows.append(row)
        return NewShard(tensors=tensors, rows=rows)

    def _fold(self, name: str, entry_dtype: str, stored: Any) -> tuple[Added, Mapping[str, Any]]:
        starts = self.starts[name]
        change = _minus(starts, self.structure)
        own = FLOATS[entry_dtype]
        at_own = rounding_loss(change, stored, own)
        dtype, loss = own, at_own
        if self.dtype != "auto":
            dtype = _DTYPES[self.dtype]
        elif at_own >= MOST_LOST:
            dtype = torch.promote_types(own, torch.float32)
        if dtype != own:
            loss = rounding_loss(change, stored, dtype)
        folded = Folded(
            tensor=name,
            roles="+".join(start.role for start in starts),
            stored=float_name(entry_dtype),
            dtype=str(dtype).removeprefix("torch."),
            loss_stored=at_own,
            loss=loss,
        )
        return Added(change=change, dtype=dtype), asdict(folded)


def _minus(starts: Sequence[Start], structure: Structure) -> LowRank:
    """-s B A of all roles in one weight, as the weight lies in its file."""
    name = starts[0].name
    left = torch.cat([-start.scaling * _on_rows(start, structure) for start in starts], dim=1)
    right = torch.cat([start.A.double() for start in starts])
    if structure.is_transposed(name):
        left, right = right.T.contiguous(), left.T.contiguous()
    return LowRank(left=left, right=right)


def _on_rows(start: Start, structure: Structure) -> Tensor:
    """B on its role's rows of the whole weight, zero elsewhere."""
    B, rows = start.B.double(), start.projection.rows
    if rows is None:
        return B
    shape = structure.model.get_parameter(f"{start.name}.weight").shape
    whole = B.new_zeros(shape[1 if structure.is_transposed(start.name) else 0], B.shape[1])
    index = torch.cat([torch.arange(first, stop) for first, stop in rows])
    return whole.index_copy_(0, index, B)


def _check(config: AILoRAConfig, dtype: str) -> None:
    if dtype not in ("auto", *_DTYPES):
        raise UserError(f"dtype {dtype!r}: must be auto, {', '.join(sorted(_DTYPES))}")
    for field, why in (("modules_to_save", "a trainer adds these itself"), ("use_dora", "")):
        if getattr(config, field):
            advice = why or "use ailora.get_peft_model on the loaded model"
            raise UserError(f"{field} cannot be started from files; leave it out: {advice}")
    if config.base == "folded" and config.dropout:
        logger.warning(
            "dropout=%g on a residual model drops a part of W itself, so step 0 is not the "
            "pre-trained model",
            config.dropout,
        )


def _refuse_residual(checkpoint: Checkpoint) -> None:
    if (checkpoint.folder / START_FOLDER).exists():
        origin = origin_of(checkpoint.folder)
        raise UserError(
            f"{checkpoint.folder}: is a residual model that ailora init wrote; start from the "
            f"original, {origin!r}"
        )


def origin_of(residual: Path) -> str | None:
    """The model that a residual model was made from, or None where that is not known."""
    path = residual / START_FOLDER / ORIGIN
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base_model"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _weights(report: OnProgress) -> Any:
    return lambda done, total, _: report("finding the starting factors", done, total)


def _report_loss(folded: Sequence[Folded]) -> None:
    wider = [line for line in folded if line.dtype != line.stored]
    if wider and all(line.loss_stored >= MOST_LOST for line in wider):
        worst = max(wider, key=lambda line: line.loss_stored)
        logger.warning(
            "%d of %d changed tensors are kept in %s, since %s would lose up to %.0f %% of B A "
            "(%s): train the residual model in that dtype, as its config.json now says. A trainer "
            "that casts it to 16 bits loses that much; the anchored form loses nothing.",
            len(wider),
            len(folded),
            worst.dtype,
            worst.stored,
            100 * worst.loss_stored,
            worst.tensor,
        )


__all__ = ["Folded", "InitReport", "init_files", "origin_of"]
