"""A start as files, for trainers out of our reach: an adapter, and the model it is to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ailora.adapters.config import AILoRAConfig, as_json, check_fields
from ailora.adapters.starts import Factors
from ailora.checkpoints import Checkpoint, Structure, open_checkpoint, read_structure
from ailora.checkpoints.source import ORIGIN, START_FOLDER, origin_of
from ailora.checkpoints.stream import OnProgress, stream
from ailora.checkpoints.work import Record, Row, Work, begin, fingerprint, require_empty
from ailora.errors import UserError
from ailora.files import write_json
from ailora.offline.export import as_recorded
from ailora.offline.folding import DTYPES, Folded, Folding, report_loss
from ailora.offline.starting import (
    as_tensors,
    from_tensors,
    map_weights,
    save_anchored,
    save_folded,
    start,
)

PLAN = "ailora_init.json"

# Fields whose start is made of values of the whole model, or that PEFT stores with the adapter.
_NEEDS_THE_MODEL = (
    "modules_to_save",
    "use_dora",
    "bias",
    "target_parameters",
    "trainable_token_indices",
)


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

    With ``config.anchored`` False writes ``out/model`` (the residual model W - s B A, eqs. 3 and
    5 of the paper; all other tensors byte for byte) and ``out/adapter`` (a stock LoRA adapter of
    rank r that makes it the original again), for any trainer. An interrupted run goes on where it
    was when called again, and ends in the same bytes. An anchored config writes the adapter alone
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
    if config.anchored:
        require_empty(out)
        save_anchored(
            structure, config, out, as_recorded(structure.checkpoint.name), _weights(report)
        )
        return InitReport(adapter=out, model=None, folded=())
    return _init_folded(structure, out, config, dtype, report)


def _init_folded(
    structure: Structure, out: Path, config: AILoRAConfig, dtype: str, report: OnProgress
) -> InitReport:
    checkpoint = structure.checkpoint
    plan = {"model": fingerprint(checkpoint), "dtype": dtype, **as_json(config)}
    target, adapter = out / "model", out / "adapter"
    work = begin(out, PLAN, plan)
    rows: Sequence[Row] | None = work.report
    if rows is None:
        factors = _factors(work, structure, config, report)
        folding = Folding(structure, map_weights(structure, config), factors, dtype)
        streamed = stream(checkpoint, target, work, folding.plan_shard, report)
        rows = [row for row in streamed if "tensor" in row]
        folders = (target / START_FOLDER, adapter)
        save_folded(structure, config, factors, folders, str(target.absolute()))
        for folder in folders:  # where a trained adapter's config leads, and what --start is given
            write_json(folder / ORIGIN, {"base_model": as_recorded(checkpoint.name)})
        work.finish(rows)
    folded = tuple(Folded(**row) for row in rows)
    report_loss(folded)
    return InitReport(adapter=adapter, model=target, folded=folded)


def _factors(
    work: Work, structure: Structure, config: AILoRAConfig, report: OnProgress
) -> Mapping[str, Factors]:
    """The starting factors, found once in a run however often it is interrupted."""
    record = work.record("starts")
    if record is None:
        try:
            factors = start(structure, config, _weights(report))
            record = Record(rows=(), tensors=as_tensors(factors))
            work.add_record("starts", record)
        except UserError:
            work.abandon()
            raise
    return from_tensors(record.tensors)


def _check(config: AILoRAConfig, dtype: str) -> None:
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype {dtype!r}: must be auto, {', '.join(sorted(DTYPES))}")
    for field in _NEEDS_THE_MODEL:
        value = getattr(config, field)
        if value and value != "none":
            advice = (
                "a trainer adds these itself"
                if field == "modules_to_save"
                else "use ailora.get_peft_model on the loaded model"
            )
            raise UserError(f"{field} cannot be started from files; leave it out: {advice}")
    check_fields(config)


def _refuse_residual(checkpoint: Checkpoint) -> None:
    if (checkpoint.folder / START_FOLDER).exists():
        origin = origin_of(checkpoint.folder)
        raise UserError(
            f"{checkpoint.folder}: is a residual model that ailora init wrote; start from the "
            f"original, {origin!r}"
        )


def _weights(report: OnProgress) -> Any:
    return lambda done, total, _: report("finding the starting factors", done, total)
