"""Starts of a checkpoint's projections, and the adapter that holds them, without the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel
from torch import Tensor, nn

from ailora.adapters import AILoRAConfig, get_peft_model
from ailora.adapters.files.saved import remember
from ailora.adapters.starts.make import Start, make_starts, projections_of, stored_scaling
from ailora.adapters.stock import peft_layers
from ailora.adapters.stock.lora_config import lora_config
from ailora.checkpoints import Structure
from ailora.checkpoints.writer import whole_folder
from ailora.errors import UserError

OnWeight = Callable[[int, int, str], None]

_NOTE = """
That base is on disk as well, at `{base}`: any PEFT trainer can train this adapter there as it is.
Afterwards `ailora export TRAINED --folded-base --out PLAIN` makes a plain LoRA of the original.
"""

# Modules that PEFT trains and saves in full for a task.
_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


def map_weights(structure: Structure, config: AILoRAConfig) -> None:
    """Give each projection that the config adapts its weight, mapped from its file.

    The rest of the model stays on the meta device. Mapped pages are the file's own: they take no
    memory that the system could not have back at any time.

    Raises:
        UserError: No such projection, or one whose weight is not stored as it is.
    """
    for projection in projections_of(structure.model, config):
        other = structure.sharer(projection.name)
        if config.base == "folded" and other is not None:
            raise UserError(
                f"folding would change {projection.name}, whose weight {other} shares; use the "
                "anchored form, which leaves it as it is"
            )
    for projection in projections_of(structure.model, config):
        weight = structure.checkpoint.tensor(structure.weight_of(projection.name))
        projection.module.weight = nn.Parameter(weight, requires_grad=False)
    _map_head(structure, config.task_type)


def save_anchored(
    structure: Structure, config: AILoRAConfig, folder: Path, on_weight: OnWeight
) -> None:
    """Write the anchored adapter that ``ailora.get_peft_model`` starts, as it would be saved.

    Raises:
        UserError: As `map_weights` and ``get_peft_model``, or the folder cannot be written.
    """
    map_weights(structure, config)
    model: Any = structure.model
    model.name_or_path = structure.checkpoint.name
    with _seeded():
        wrapped = get_peft_model(model, config, on_progress=on_weight)
    _save(wrapped, folder)


def make_factors(
    structure: Structure, config: AILoRAConfig, on_weight: OnWeight
) -> dict[str, Tensor]:
    """The starting factors, ``key.A`` and ``key.B``, in the dtype that PEFT will train them in.

    That is fp32 over 16-bit weights, else the weight's own. What is folded into W must be these
    and not what they were rounded from.

    Raises:
        UserError: As `map_weights` and `ailora.adapters.starts.make.make_starts`.
    """
    map_weights(structure, config)
    with _seeded():
        starts = make_starts(structure.model, config, on_weight)
    factors = {}
    for start in starts:
        dtype = torch.promote_types(start.projection.dtype, torch.float32)
        factors[f"{start.key}.A"] = start.A.to(dtype).contiguous()
        factors[f"{start.key}.B"] = start.B.to(dtype).contiguous()
    return factors


def starts_of(
    structure: Structure, config: AILoRAConfig, factors: Mapping[str, Tensor]
) -> list[Start]:
    """The starts that have these factors."""
    return [
        Start(
            projection=projection,
            spectral=config.roles[projection.role].spectral,
            A=factors[f"{projection.key}.A"],
            B=factors[f"{projection.key}.B"],
            scaling=stored_scaling(config, projection.role),
            lr_ratio=1.0,  # of a live optimiser; files have no place for it
        )
        for projection in projections_of(structure.model, config)
    ]


def save_folded(
    structure: Structure,
    config: AILoRAConfig,
    starts: Sequence[Start],
    folders: Sequence[Path],
    base: str,
) -> None:
    """Write a plain adapter with these starts for the residual model at ``base``.

    The structure's model is wrapped in it afterwards.

    Raises:
        UserError: The folder cannot be written.
    """
    map_weights(structure, config)  # PEFT looks at their dtypes
    model: Any = structure.model
    model.name_or_path = base
    with _seeded():
        lora = lora_config(model, config, starts)
        wrapped = peft.get_peft_model(model, lora)
    peft_layers.install(wrapped, "default", starts, anchored=False)
    spectral = [start for start in starts if start.spectral]
    anchors = {f"{start.key}.A": start.A for start in spectral}
    anchors |= {f"{start.key}.B": start.B for start in spectral}
    remember(wrapped, "default", config, anchors)
    for folder in folders:
        _save(wrapped, folder, note=_NOTE.format(base=base))


@contextmanager
def _seeded() -> Iterator[None]:
    """Torch's random numbers as after ``torch.manual_seed(0)``, for Gaussian starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


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
            with (temporary / "README.md").open("a", encoding="utf-8") as readme:
                readme.write(note)
