"""Starts of a checkpoint's projections, and the adapter that holds them, without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from ailora.adapters.attach import Wanted, seeded
from ailora.adapters.config import AILoRAConfig
from ailora.adapters.selection import OnProgress, Selection, make_factors, select
from ailora.adapters.starts import Factors
from ailora.adapters.wrap import get_peft_model, wrap
from ailora.checkpoints import Structure
from ailora.checkpoints.writer import whole_folder
from ailora.errors import UserError
from ailora.files import write_atomic

_NOTE = """
That base is on disk as well, at `{base}`: any PEFT trainer can train this adapter there as it is.
Afterwards `ailora export TRAINED --folded-base --out PLAIN` makes a plain LoRA of the original.
Preference training (DPO, IPO, KTO) needs the anchored form: with the adapter off, that base is a
residual and no reference model.
"""

# Modules that PEFT trains and saves in full for a task.
_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


def map_weights(structure: Structure, config: AILoRAConfig) -> Selection:
    """Give each projection that the config adapts its weight, mapped from its file.

    The rest of the model stays on the meta device. Mapped pages are the file's own: they take no
    memory that the system could not have back at any time.

    Returns:
        What the config adapts.

    Raises:
        UserError: no such projection, or one whose weight is not stored as it is.
    """
    selection = select(structure.model, config)
    if selection.others:
        raise UserError(
            f"{min(selection.others)} is no linear layer, which cannot be started from files; "
            "leave it out of target_modules, or use ailora.get_peft_model on the loaded model"
        )
    for name in selection.layers:
        other = structure.sharer(name)
        if not config.anchored and other is not None:
            raise UserError(
                f"anchored=False would change {name}, whose weight {other} shares; use "
                "anchored=True (--anchored), which leaves it as it is"
            )
    for name, chosen in selection.layers.items():
        weight = structure.checkpoint.tensor(structure.weight_of(name))
        chosen[0].projection.module.weight = nn.Parameter(weight, requires_grad=False)
    _map_head(structure, config.task_type)
    return selection


def save_anchored(
    structure: Structure, config: AILoRAConfig, folder: Path, base: str, on_weight: OnProgress
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
    _save(wrapped, folder)


def start(structure: Structure, config: AILoRAConfig, on_weight: OnProgress) -> dict[str, Factors]:
    """The starting factors by projection, in the dtype that PEFT will train them in.

    That is fp32 over 16-bit weights, else the weight's own. What is folded into W must be these
    and not what they were rounded from.

    Raises:
        UserError: as `map_weights` and `ailora.adapters.selection.make_factors`.
    """
    selection = map_weights(structure, config)
    with seeded():
        made = make_factors(selection, on_weight)
    dtypes = {
        one.projection.key: torch.promote_types(one.projection.dtype, torch.float32)
        for one in selection.chosen
    }
    return {key: Factors(A=f.A.to(dtypes[key]), B=f.B.to(dtypes[key])) for key, f in made.items()}


def as_tensors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The factors as tensors of a file, ``key.A`` and ``key.B``; `from_tensors` is the reverse."""
    As = {f"{key}.A": made.A.contiguous() for key, made in factors.items()}
    return As | {f"{key}.B": made.B.contiguous() for key, made in factors.items()}


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    """The factors that `as_tensors` was given."""
    keys = [name.removesuffix(".A") for name in tensors if name.endswith(".A")]
    return {key: Factors(A=tensors[f"{key}.A"], B=tensors[f"{key}.B"]) for key in keys}


def save_folded(
    structure: Structure,
    config: AILoRAConfig,
    factors: Mapping[str, Factors],
    folders: Sequence[Path],
    base: str,
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
        _save(wrapped, folder, note=_NOTE.format(base=base))


def _map_head(structure: Structure, task_type: str | None) -> None:
    """Map the task's head from its file, since PEFT saves it along with the adapter."""
    names = _HEADS.get(task_type or "", ())
    for name, head in structure.model.named_modules():
        if name.rpartition(".")[2] not in names:
            continue
        for key, _ in list(head.named_parameters()):
            if f"{name}.{key}" not in structure.stored:
                raise UserError(
                    f"{structure.checkpoint.folder}: has no head for {task_type}, whose {name} "
                    "PEFT saves with the adapter; save the model with its head first, or leave out "
                    "--task-type"
                )
            stored = structure.checkpoint.tensor(structure.tensor_of(f"{name}.{key}"))
            owner, _, last = key.rpartition(".")
            setattr(head.get_submodule(owner), last, nn.Parameter(stored, requires_grad=False))


def _save(wrapped: PeftModel, folder: Path, note: str = "") -> None:
    with whole_folder(folder) as temporary:
        wrapped.save_pretrained(str(temporary))
        if note:
            readme = temporary / "README.md"
            write_atomic(readme, readme.read_text(encoding="utf-8") + note)
