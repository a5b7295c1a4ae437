"""Whether a saved adapter is whole, and for this model: from the files, a tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ailora.adapters.fingerprints import Base, as_matrix, compare_weight
from ailora.adapters.folder import (
    A_KEY,
    B_KEY,
    AdapterFolder,
    read_adapter,
    read_config,
)
from ailora.adapters.locate import locate
from ailora.adapters.marker import (
    is_started,
    marker_mismatch,
    rank_mismatch,
    read_record,
)
from ailora.adapters.record import MARKER, WEIGHTS, Record, Sketch
from ailora.checkpoints import Checkpoint, Structure, open_checkpoint, read_structure
from ailora.checkpoints.checkpoint import START_FOLDER, read_origin
from ailora.checkpoints.writer import OnProgress
from ailora.errors import UserError
from ailora.files import parse_json, read_text
from ailora.roles.projection import shape_of

Result = Literal["fine", "wrong", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One thing that was looked at.

    Attributes:
        subject: ``"files"``, ``"ranks"``, ``"values"``, ``"anchors"``, ``"layers"`` or ``"base"``.
        result: What was found.
        details: One line on it.
    """

    subject: str
    result: Result
    details: str


def check_adapter(
    adapter: str | Path, model: str | Path, *, on_progress: OnProgress | None = None
) -> tuple[Checked, ...]:
    """See whether an adapter's files belong together, and to a model.

    Args:
        adapter: Its folder, or its name on the hub.
        model: Folder or hub name of its base, with safetensors; one tensor at a time is read.
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Returns:
        One row per subject; those that nothing can be said about are left out.

    Raises:
        UserError: there is no LoRA adapter, or no model that can be read, or only a residual one.
    """
    folder = locate(adapter)
    read_config(folder)
    checkpoint = open_checkpoint(model)
    _refuse_residual(checkpoint)
    try:
        read = read_adapter(folder)
    except UserError as error:
        return (Checked(subject="files", result="wrong", details=str(error)),)
    structure = _structure(read, checkpoint)
    try:
        record = _record(read, structure)
    except UserError as error:
        files = Checked(subject="files", result="wrong", details=str(error))
        return (files, _values(read), _layers(read, None, structure, checkpoint))
    rows = [_files(read, record), _values(read)]
    if record is not None:
        rows += _of_record(read, record)
    rows.append(_layers(read, record, structure, checkpoint))
    if rows[-1].result != "wrong":
        rows.append(_base(read, record, structure, checkpoint, on_progress))
    return tuple(rows)


def _refuse_residual(checkpoint: Checkpoint) -> None:
    start = checkpoint.folder / START_FOLDER
    if start.exists():
        raise UserError(
            f"{checkpoint.folder}: is a residual model that ailora init wrote, and what an adapter "
            f"remembers is the original; give that, {read_origin(start)!r}"
        )


def _record(adapter: AdapterFolder, structure: Structure | None) -> Record | None:
    if not is_started(adapter.folder):
        return None
    return read_record(adapter, None if structure is None else structure.model)


def _structure(adapter: AdapterFolder, checkpoint: Checkpoint) -> Structure | None:
    """The model of the class whose modules the adapter has; None if there is none."""
    if _is_quantised(checkpoint):
        return None
    for task in dict.fromkeys((adapter.config.task_type, None, "FEATURE_EXTRACTION")):
        structure = read_structure(checkpoint, task)
        if dict(structure.model.named_modules()).keys() >= _owners(adapter):
            return structure
    return None


def _owners(adapter: AdapterFolder) -> set[str]:
    """The modules that it adapts, or parameters of which it does."""
    return {*adapter.updates, *(name.replace(".base_layer", "") for name in adapter.stacks)}


def _is_quantised(checkpoint: Checkpoint) -> bool:
    return "quantization_config" in _config(checkpoint)


def _config(checkpoint: Checkpoint) -> Mapping[str, object]:
    path = checkpoint.folder / "config.json"
    try:
        config = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy the model again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: is no table of fields; copy the model again")
    return config


def _files(adapter: AdapterFolder, record: Record | None) -> Checked:
    known = {name + letter for name in adapter.stacks for letter in (A_KEY, B_KEY)}
    strays = [k for k in adapter.whole if k.endswith((A_KEY, B_KEY)) and k not in known]
    if strays:
        why = f"{WEIGHTS} holds {min(strays)} without its other factor; copy the folder again"
        return Checked(subject="files", result="wrong", details=why)
    names = adapter.updates.keys() | adapter.stacks.keys()
    more = sorted(names - record.layers.keys()) if record else []
    others = f" ({len(more)} of them are not in {MARKER})" if more else ""
    started = (
        f"{MARKER} is of the same adapter{others}"
        if record
        else f"no {MARKER}: not started by ailora, so base and anchors are not remembered"
    )
    details = f"{len(names)} layers; {started}"
    return Checked(subject="files", result="fine", details=details)


def _values(adapter: AdapterFolder) -> Checked:
    for name, update in adapter.updates.items():
        for letter, matrix in (("A", update.A), ("B", update.B)):
            if not torch.isfinite(matrix).all():
                return _not_finite(f"lora_{letter} of {name}")
    for name, tensor in adapter.whole.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return _not_finite(name)
    return Checked(subject="values", result="fine", details="no NaN, no infinity")


def _not_finite(what: str) -> Checked:
    details = f"{what} holds NaN or infinity: its training diverged; use an earlier checkpoint"
    return Checked(subject="values", result="wrong", details=details)


def _of_record(adapter: AdapterFolder, record: Record) -> Iterator[Checked]:
    why = rank_mismatch(adapter, record)
    if why:
        yield Checked(subject="ranks", result="wrong", details=f"{why}; copy the folder again")
        return
    ranks = [update.rank for update in adapter.updates.values()]
    ranks += [sum(one.width for one in record.layers.get(name, ())) for name in adapter.stacks]
    shown = str(ranks[0]) if len(set(ranks)) == 1 else f"{min(ranks)} to {max(ranks)}"
    yield Checked(subject="ranks", result="fine", details=f"{shown}, as {MARKER} says")
    if record.sketches:
        why = marker_mismatch(adapter, record) or _other_anchor(record)
        fine = "as they were at the start"
        yield Checked(subject="anchors", result="wrong" if why else "fine", details=why or fine)


def _other_anchor(record: Record) -> str | None:
    """Of a folded adapter, whose anchors lie in a file of their own."""
    for key, anchor in record.anchors.items():
        sketch = record.sketches.get(key)
        if sketch is not None and not sketch.moved(Sketch.of(anchor)) <= 1e-6:
            return f"the anchor of {key} is of another adapter; copy the files from one folder"
    return None


def _layers(
    adapter: AdapterFolder,
    record: Record | None,
    structure: Structure | None,
    checkpoint: Checkpoint,
) -> Checked:
    if structure is None:
        if _is_quantised(checkpoint):
            details = "the model's weights are stored quantised, and are not read"
            return Checked(subject="layers", result="cannot tell", details=details)
        details = f"{checkpoint.name} does not have the layers that it adapts, such as "
        return Checked(subject="layers", result="wrong", details=details + min(_owners(adapter)))
    for name, update in adapter.updates.items():
        module = structure.model.get_submodule(name)
        found = shape_of(module) if hasattr(module, "weight") else None
        if found != update.shape:
            details = f"{name} is {found} in the model, and {update.shape} in the adapter"
            return Checked(subject="layers", result="wrong", details=details)
    for name in adapter.stacks:
        why = _other_stack(name, adapter, record, structure)
        if why:
            return Checked(subject="layers", result="wrong", details=why)
    count = len(adapter.updates) + len(adapter.stacks)
    details = f"all {count} are in {type(structure.model).__name__}, of these shapes"
    return Checked(subject="layers", result="fine", details=details)


def _other_stack(
    name: str, adapter: AdapterFolder, record: Record | None, structure: Structure
) -> str | None:
    """Why the model has no such stack of experts; None if it has, whichever way it is stored."""
    if record is None or name not in record.layers:
        return None
    block = record.layers[name][0]
    owner, _, last = block.name(name).rpartition(".")
    stored = structure.model.get_submodule(owner)._parameters.get(last)
    A, B = adapter.stacks[name]
    wanted = (block.experts, *sorted((B.shape[0], A.shape[1])))
    found = None if stored is None else (stored.shape[0], *sorted(stored.shape[1:]))
    if found == wanted:
        return None
    return f"{owner}.{last} is {found} in the model, and {wanted} in the adapter"


def _base(
    adapter: AdapterFolder,
    record: Record | None,
    structure: Structure | None,
    checkpoint: Checkpoint,
    on_progress: OnProgress | None,
) -> Checked:
    base = None if record is None else record.base
    if base is None:
        details = "the files do not say what it was started on (other tools', or older ones)"
        return Checked(subject="base", result="cannot tell", details=details)
    found = str(_config(checkpoint).get("model_type", ""))
    if base.model_type and found and found != base.model_type:
        details = f"it was started on a {base.model_type!r}, and this is a {found!r}"
        return Checked(subject="base", result="wrong", details=details)
    if structure is None:
        details = "weights stored quantised are not compared; give the model it was made from"
        return Checked(subject="base", result="cannot tell", details=details)
    return _weights(base, structure, on_progress or (lambda *_: None))


def _weights(base: Base, structure: Structure, report: OnProgress) -> Checked:
    """Compare every remembered layer; the first that differs is named."""
    first, differing, unclear, unread = "", 0, "", ""
    for done, (name, remembered) in enumerate(base.layers.items()):
        report("comparing the base", done, len(base.layers))
        try:
            W = _weight(structure, name)
        except UserError as error:
            unread = unread or str(error)
            continue
        told = compare_weight(remembered, W)
        if told.differs:
            size = "" if math.isinf(told.moved) else f" by about {told.moved:.1g} of its size"
            first = first or f"{name} is the first that differs{size}"
            differing += 1
        elif told.is_unclear:
            unclear = unclear or f"{name} was remembered in {remembered.dtype}"
    report("comparing the base", len(base.layers), len(base.layers))
    if first:
        details = f"{differing} of {len(base.layers)} weights are not those of the start: {first}"
        return Checked(subject="base", result="wrong", details=details)
    if unread or unclear:
        details = unread or f"{unclear}: another model would show, a short training may not"
        return Checked(subject="base", result="cannot tell", details=details)
    return Checked(
        subject="base",
        result="fine",
        details=f"all {len(base.layers)} weights are those of the start",
    )


def _weight(structure: Structure, name: str) -> torch.Tensor:
    """W (m, n) of a layer as it is stored, or a stack of experts as one matrix."""
    if name in dict(structure.model.named_parameters()):
        return as_matrix(structure.checkpoint.tensor(structure.tensor_of(name)))
    weight = structure.checkpoint.tensor(structure.weight_of(name))
    return weight.T if structure.is_transposed(name) else weight
