"""A start as files, for trainers whose code is not yours: an adapter, and its base model.

The adapter is made without the model: its modules are built from config.json on the meta device,
and only the weights that it adapts are mapped from their files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from ailora.adapters.attach import Wanted, seeded
from ailora.adapters.config import AILoRAConfig, as_json, private_copy
from ailora.adapters.starting_factors import OnWeight, make_factors
from ailora.adapters.starts import Factors
from ailora.adapters.wrap import get_peft_model, wrap
from ailora.checkpoints import Checkpoint, Structure
from ailora.checkpoints.checkpoint import ORIGIN, START_FOLDER, as_recorded
from ailora.checkpoints.resumable import (
    Record,
    Row,
    Work,
    alone_in_out,
    begin,
    fingerprint,
    require_empty,
    whole_folder,
)
from ailora.checkpoints.structure import task_type_of
from ailora.checkpoints.writer import OnProgress, stream
from ailora.errors import UserError
from ailora.files import read_text, write_atomic, write_json
from ailora.offline.folded_weights import Folded, Folding, report_loss
from ailora.offline.init_readme import anchored_uses, folded_uses
from ailora.offline.started_weights import map_weights, open_original

PLAN = "ailora_init.json"


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What `init_files` wrote.

    Attributes:
        adapter: Folder of the adapter.
        model: Folder of the residual model to train it on; None for an anchored adapter, whose
            model is the original.
        folded: One row per changed tensor; empty for an anchored adapter.
    """

    adapter: Path
    model: Path | None
    folded: tuple[Folded, ...]


@alone_in_out
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
    into ``out``, as ``ailora.get_peft_model(...).save_pretrained(out)`` would, and with baked rates
    the scales that modules train at as PEFT's ``alpha_pattern``, for any trainer.

    Args:
        model: A folder with config.json and safetensors, or a hub name.
        out: A new or empty folder, or that of the same call interrupted.
        config: What each role starts from. Gaussian starts are drawn as after
            ``torch.manual_seed(0)``. ``task_type`` decides the class of the model, whose module
            names the adapter has; None takes the class that config.json names (a folded start of
            a decoder then says CAUSAL_LM, which trainers look for).
        dtype: Data type of the changed tensors: ``"auto"`` keeps a tensor's own where rounding
            loses less than 1 % of s B A, and takes float32 elsewhere; or ``"bfloat16"``,
            ``"float16"``, ``"float32"``, ``"float64"``.
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        UserError: Anything that is wrong with the model's files, the folder or the config.
    """
    structure = open_original(model, config, dtype)
    report = on_progress or (lambda *_: None)
    if config.anchored:
        require_empty(out)
        _save_anchored(
            structure, config, out, as_recorded(structure.checkpoint.name), _told(report)
        )
        return InitReport(adapter=out, model=None, folded=())
    return _init_folded(structure, out, config, dtype, report)


def _init_folded(
    structure: Structure, out: Path, config: AILoRAConfig, dtype: str, report: OnProgress
) -> InitReport:
    checkpoint = structure.checkpoint
    config = _with_task(structure, config)
    target, adapter = out / "model", out / "adapter"
    work = begin(out, PLAN, plan_of(structure, config, dtype), [checkpoint])
    rows: Sequence[Row] | None = work.report
    if rows is None:
        factors = _factors(work, structure, config, report)
        folding = Folding(structure, map_weights(structure, config), factors, dtype)
        streamed = stream(checkpoint, target, work, folding.plan_shard, report)
        rows = [row for row in streamed if "tensor" in row]
        folders = (target / START_FOLDER, adapter)
        uses = folded_uses(as_recorded(checkpoint.name), str(target.absolute()))
        _save_folded(structure, config, factors, folders, str(target.absolute()), uses)
        write_atomic(out / "README.md", uses.lstrip())
        for folder in folders:  # where a trained adapter's config leads, and what --start is given
            write_json(folder / ORIGIN, {"base_model": as_recorded(checkpoint.name)})
        work.finish(rows)
    folded = tuple(Folded(**row) for row in rows)
    report_loss(folded)
    return InitReport(adapter=adapter, model=target, folded=folded)


def plan_of(structure: Structure, config: AILoRAConfig, dtype: str) -> dict[str, Any]:
    """Everything that decides what a folded start is."""
    fields = as_json(_with_task(structure, config))
    return {"model": fingerprint(structure.checkpoint), "dtype": dtype, **fields}


def _with_task(structure: Structure, config: AILoRAConfig) -> AILoRAConfig:
    """A copy that names the task of a decoder: trainers look for PEFT's class of it."""
    config = private_copy(config)
    if config.task_type is None and task_type_of(structure.model) == "CAUSAL_LM":
        config.task_type = "CAUSAL_LM"
    return config


def _factors(
    work: Work, structure: Structure, config: AILoRAConfig, report: OnProgress
) -> Mapping[str, Factors]:
    """The starting factors, found once in a run however often it is interrupted."""
    record = work.record("starts")
    if record is None:
        try:
            factors = _make_start(structure, config, _told(report))
            record = Record(rows=(), tensors=_as_tensors(factors))
            work.add_record("starts", record)
        except UserError:
            work.abandon()
            raise
    return _from_tensors(record.tensors)


def _told(report: OnProgress) -> OnWeight:
    return lambda done, total, _: report("finding the starting factors", done, total)


def _save_anchored(
    structure: Structure, config: AILoRAConfig, folder: Path, base: str, on_weight: OnWeight
) -> None:
    """Write the anchored adapter that ``ailora.get_peft_model`` starts, as it would be saved.

    Raises:
        UserError: as `map_weights` and ``get_peft_model``, or the folder cannot be written.
    """
    map_weights(structure, config)
    model: Any = structure.model
    model.name_or_path = base
    with seeded():
        wrapped = get_peft_model(model, config, on_progress=on_weight)
    _save(wrapped, folder, anchored_uses(base), structure.checkpoint)


def _make_start(
    structure: Structure, config: AILoRAConfig, on_weight: OnWeight
) -> dict[str, Factors]:
    """The starting factors by projection, in the dtype that PEFT will train them in.

    That is fp32 over 16-bit weights, else the weight's own. What is folded into W must be these
    and not what they were rounded from.

    Raises:
        UserError: as `map_weights` and `ailora.adapters.starting_factors.make_factors`.
    """
    selection = map_weights(structure, config)
    with seeded():
        made = make_factors(selection, on_weight)
    dtypes = {
        one.projection.key: torch.promote_types(one.projection.dtype, torch.float32)
        for one in selection.chosen
    }
    return {key: Factors(A=f.A.to(dtypes[key]), B=f.B.to(dtypes[key])) for key, f in made.items()}


def _as_tensors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The factors as tensors of a file, ``key.A`` and ``key.B``; `_from_tensors` is the reverse."""
    As = {f"{key}.A": made.A.contiguous() for key, made in factors.items()}
    return As | {f"{key}.B": made.B.contiguous() for key, made in factors.items()}


def _from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    """The factors that `_as_tensors` was given."""
    keys = [name.removesuffix(".A") for name in tensors if name.endswith(".A")]
    return {key: Factors(A=tensors[f"{key}.A"], B=tensors[f"{key}.B"]) for key in keys}


def _save_folded(
    structure: Structure,
    config: AILoRAConfig,
    factors: Mapping[str, Factors],
    folders: Sequence[Path],
    base: str,
    note: str,
) -> None:
    """Write a plain adapter with these starts for the residual model at ``base``.

    The structure's model is wrapped in it afterwards.

    Raises:
        UserError: the folder cannot be written.
    """
    map_weights(structure, config)  # PEFT looks at their dtypes
    model: Any = structure.model
    model.name_or_path = base
    with seeded():
        wrapped = wrap(model, config, wanted=Wanted(factors=factors, fold=False))
    for folder in folders:
        _save(wrapped, folder, note, structure.checkpoint)


def _save(wrapped: PeftModel, folder: Path, note: str, source: Checkpoint) -> None:
    for config in wrapped.peft_config.values():
        config.keeps_scales = True  # a trainer without ailora has its rates from them
    with whole_folder(folder) as temporary:
        wrapped.save_pretrained(str(temporary))
        readme = temporary / "README.md"
        write_atomic(readme, read_text(readme) + note)
        source.check_unchanged()
