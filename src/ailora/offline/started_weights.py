"""Which weights of a checkpoint a start adapts: refused, chosen, and mapped from their files.

The model is built from config.json on the meta device; nothing here reads a weight's values.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ailora.adapters import peft_insides
from ailora.adapters.attach import HEADS_ADDED_LATE, check_targets
from ailora.adapters.compatibility import check_compatible
from ailora.adapters.config import AILoRAConfig, check_fields
from ailora.adapters.selection import Selection, select
from ailora.adapters.starting_factors import check_startable
from ailora.checkpoints import Structure, open_checkpoint, read_structure
from ailora.checkpoints.checkpoint import START_FOLDER, read_origin
from ailora.errors import UserError
from ailora.offline.folded_weights import DTYPES

# Fields whose start needs the values of the whole model, or that PEFT stores with the adapter.
_NEEDS_THE_MODEL = (
    "modules_to_save",
    "use_dora",
    "bias",
    "target_parameters",
    "trainable_token_indices",
)

# Modules that PEFT trains and saves in full for a task.
HEADS = {"SEQ_CLS": ["classifier", "score"], **HEADS_ADDED_LATE}


def open_original(model: str | Path, config: AILoRAConfig, dtype: str) -> Structure:
    """A checkpoint that can be started from files with this config.

    Raises:
        UserError: The config or the dtype cannot be had from files, the checkpoint cannot be read,
            or is a residual model.
    """
    _check(config, dtype)
    structure = read_structure(open_checkpoint(model), config.task_type)
    start = structure.checkpoint.folder / START_FOLDER
    if start.exists():
        raise UserError(
            f"{structure.checkpoint.folder}: is a residual model that ailora init wrote; start "
            f"from the original, {read_origin(start)!r}"
        )
    return structure


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
    config.check_values()
    check_fields(config)
    check_compatible(config)


def choose(structure: Structure, config: AILoRAConfig) -> Selection:
    """What the config adapts, after every refusal that needs no values.

    Raises:
        UserError: No such projection, one whose weight is not stored as it is or is smaller than
            the rank, or a task whose head is not stored.
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
        structure.weight_of(name)
    check_startable(selection)
    check_targets(structure.model, peft_insides.selecting(structure.model, [*selection.layers]))
    stored_head(structure, config.task_type)
    return selection


def stored_head(structure: Structure, task_type: str | None) -> dict[str, str]:
    """The task's head, which PEFT saves along with the adapter: stored tensors by parameter.

    Raises:
        UserError: It is not stored.
    """
    names, found = HEADS.get(task_type or "", []), {}
    for name, head in structure.model.named_modules():
        if name.rpartition(".")[2] not in names:
            continue
        for key, _ in head.named_parameters(name):
            if key not in structure.stored:
                raise UserError(
                    f"{structure.checkpoint.folder}: has no head for {task_type}, whose {name} "
                    "PEFT saves with the adapter; save the model with its head first, or leave out "
                    "--task-type"
                )
            found[key] = structure.tensor_of(key)
    return found


def map_weights(structure: Structure, config: AILoRAConfig) -> Selection:
    """Give each projection that the config adapts its weight, mapped from its file; and the head.

    The rest of the model stays on the meta device. Mapped pages are the file's own: they take no
    memory that the system could not have back at any time.

    Returns:
        What the config adapts.

    Raises:
        UserError: As `choose`.
    """
    selection = choose(structure, config)
    wanted = {f"{name}.weight": structure.weight_of(name) for name in selection.layers}
    for parameter, stored in (wanted | stored_head(structure, config.task_type)).items():
        owner, _, last = parameter.rpartition(".")
        value = nn.Parameter(structure.checkpoint.tensor(stored), requires_grad=False)
        setattr(structure.model.get_submodule(owner), last, value)
    return selection
