"""What this library wrote beside a saved adapter: how it started, and which factors are whose.

That is ``ailora.json``; of version 0.1.0 it says less, and the base model the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ailora.adapters.config import AILoRAConfig, Role, from_json
from ailora.adapters.factors import Block
from ailora.adapters.fingerprints import Base
from ailora.adapters.folder import AdapterFolder, read_tensors
from ailora.adapters.peft_insides import from_pattern
from ailora.adapters.record import (
    ANCHORS,
    CONFIG,
    FORMAT,
    MARKER,
    WEIGHTS,
    Record,
    Sketch,
    layer_mismatch,
)
from ailora.adapters.selection import select
from ailora.adapters.stored_types import block_of, number
from ailora.errors import MALFORMED, UserError
from ailora.files import parse_json, read_text
from ailora.roles.parts import PART_NAMES, PartName
from ailora.roles.walk import walk


def is_started(folder: Path) -> bool:
    """Whether a folder has this library's marker."""
    return (folder / MARKER).is_file()


def read_form(folder: Path) -> str | None:
    """``"anchored"`` or ``"folded"`` as the marker says; None without one that can be read."""
    try:
        stored = parse_json(read_text(folder / MARKER))
        return str(stored["form"] if stored["format"] != 1 else stored["config"]["base"])
    except (OSError, *MALFORMED):
        return None


def needs_model(folder: Path) -> bool:
    """Whether `read_record` needs the base model as well: the files are of version 0.1.0."""
    try:
        return bool(parse_json(read_text(folder / MARKER))["format"] == 1)
    except (OSError, *MALFORMED):
        return False


def read_record(adapter: AdapterFolder, model: nn.Module | None = None) -> Record:
    """How a saved adapter started.

    Args:
        adapter: Its folder.
        model: Its base model, without which files of version 0.1.0 that adapt fused layers do not
            say which rows are whose.

    Raises:
        UserError: no marker, one that is broken or newer than this version, or missing anchors.
    """
    marker = adapter.folder / MARKER
    if not marker.is_file():
        raise UserError(
            f"{adapter.folder}: has no {MARKER}, so it was not started by ailora; "
            "load it with peft.PeftModel.from_pretrained"
        )
    try:
        stored = parse_json(read_text(marker))
        form = stored["format"]
        if form == FORMAT:
            return _record(adapter, stored)
        if form == 1:
            return _record_of_0_1_0(adapter, stored["config"], model)
    except (OSError, *MALFORMED) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{marker}: not a marker ailora wrote ({error}); save again") from error
    raise UserError(f"{marker}: format {form!r} is not known; update ailora")


def _record(adapter: AdapterFolder, stored: Mapping[str, Any]) -> Record:
    layers = {
        name: tuple(block_of(block) for block in layer["blocks"])
        for name, layer in stored["layers"].items()
    }
    if not all(layers.values()):
        raise ValueError("a layer has no blocks")
    _scaling(adapter, layers)  # they are of one adapter
    origin = from_json(stored["config"])
    origin.check_values()
    return Record(
        origin=origin,
        layers=layers,
        scaling={name: _scale(layer["scaling"]) for name, layer in stored["layers"].items()},
        anchors=_anchors(adapter) if stored["form"] == "folded" else {},
        sketches={key: _sketch(sketch) for key, sketch in stored["sketches"].items()},
        within={key: number(value) for key, value in stored.get("within", {}).items()},
        base=_base(stored["base"], layers) if "base" in stored else None,
    )


def _base(stored: Mapping[str, Any], layers: Mapping[str, tuple[Block, ...]]) -> Base:
    base = Base.from_json(stored)
    if not base.layers.keys() <= {blocks[0].name(name) for name, blocks in layers.items()}:
        raise ValueError("it remembers the base of other layers")
    return base


def _sketch(stored: Mapping[str, Any]) -> Sketch:
    return Sketch(value=number(stored["value"]), norm=number(stored["norm"]))


def _scale(value: Any) -> float:
    scale = number(value)
    if not _is_scale(scale):
        raise ValueError(f"a scale of {scale}")
    return scale


def _is_scale(value: float) -> bool:
    return 1e-30 <= value <= 1e30


def _scaling(adapter: AdapterFolder, layers: Mapping[str, tuple[Block, ...]]) -> dict[str, float]:
    """The scales that the files say, checked as those of a start."""
    for name, blocks in layers.items():
        if name not in (adapter.updates if blocks[0].parameter is None else adapter.stacks):
            raise UserError(
                f"{adapter.folder}: {MARKER} is of an adapter of {name}, which {WEIGHTS} does not "
                "have; copy the whole adapter folder again"
            )
    found = {name: _scale_in(adapter, name, blocks) for name, blocks in layers.items()}
    wrong = next((name for name, scale in found.items() if not _is_scale(scale)), None)
    if wrong is not None:
        raise UserError(
            f"{adapter.folder / CONFIG}: gives {wrong} the scale {found[wrong]:g}, which no "
            "adapter has that ailora started; copy the whole adapter folder again"
        )
    return found


def _scale_in(adapter: AdapterFolder, name: str, blocks: Sequence[Block]) -> float:
    """The scale of a layer's or a parameter's factors in the files."""
    if name in adapter.updates:
        return adapter.updates[name].scale
    config = adapter.config
    alpha = from_pattern(config.alpha_pattern, blocks[0].name(name), config.lora_alpha)
    width = sum(block.width for block in blocks)
    return float(alpha / (math.sqrt(width) if config.use_rslora else width))


def _anchors(adapter: AdapterFolder) -> dict[str, Tensor]:
    path = adapter.folder / ANCHORS
    found = read_tensors(path)
    for key, anchor in found.items():
        if anchor.ndim != 2 or not anchor.is_floating_point() or not anchor.isfinite().all():
            raise UserError(
                f"{path}: the anchor of {key} is no matrix of finite numbers; copy the whole "
                "adapter folder again"
            )
    return found


def _record_of_0_1_0(
    adapter: AdapterFolder, stored: Mapping[str, Any], model: nn.Module | None
) -> Record:
    """Version 0.1.0 wrote other names, and left it to the model which modules play a role."""
    if model is None:
        raise UserError(
            f"{adapter.folder}: was saved by ailora 0.1.0, whose files need their model to be "
            "read; load it with ailora.load_adapter(model, folder) and save it again"
        )
    origin = _config_of_0_1_0(stored, _parts_of_0_1_0(adapter, model))
    try:
        chosen = select(model, origin).layers
    except UserError as error:
        raise UserError(f"{adapter.folder} (saved by ailora 0.1.0): {error}") from error
    layers = {name: tuple(one.block for one in layer) for name, layer in chosen.items()}
    anchors, scaling = _anchors(adapter), _scaling(adapter, layers)
    if origin.anchored:
        sketches = {key: Sketch.of(matrix) for key, matrix in anchors.items()}
        return Record(origin=origin, layers=layers, scaling=scaling, sketches=sketches)
    within = {}
    for name, blocks in layers.items():
        for block in blocks:
            if block.init in ("principal", "minor"):  # a part P of W: <P, W> = ||P||^2
                A, B = (anchors[f"{block.key(name)}.{letter}"].double() for letter in "AB")
                within[block.key(name)] = scaling[name] ** 2 * float(((B.T @ B) * (A @ A.T)).sum())
    return Record(origin=origin, layers=layers, scaling=scaling, anchors=anchors, within=within)


def _parts_of_0_1_0(adapter: AdapterFolder, model: nn.Module) -> list[PartName] | None:
    """The parts of the model that an adapter is of; other defaults held then."""
    parts = {place.name: place.part for place in walk(model)}
    strange = adapter.updates.keys() - parts.keys()
    if strange:
        raise UserError(
            f"{adapter.folder}: adapts {min(strange)}, which this {type(model).__name__} does not "
            "have; load it into the model it was made for"
        )
    adapted = {parts[name] for name in adapter.updates}
    return None if None in adapted else [part for part in PART_NAMES if part in adapted]


def _config_of_0_1_0(stored: Mapping[str, Any], parts: Sequence[PartName] | None) -> AILoRAConfig:
    rslora = stored.get("use_rslora", False)
    roles = {}
    for name, role in stored["roles"].items():
        alpha = role["alpha"] or stored["alpha"]
        if rslora and alpha is None:  # no alpha meant the rank in 0.1.0
            alpha = role["r"] or stored["r"]
        roles[name] = Role(
            init=role["init"],
            r=role["r"],
            lora_alpha=alpha,
            lr_ratio=role["lr_ratio"],
            modules=role["modules"],
        )
    layers = stored.get("layers")
    return AILoRAConfig(
        r=stored["r"],
        lora_dropout=stored["dropout"],
        anchored=stored["base"] == "anchored",
        bake_rates=stored["lr_mode"] == "baked",
        use_rslora=rslora,
        use_dora=stored.get("use_dora", False),
        roles=roles,
        parts=parts,
        task_type=stored["task_type"],
        modules_to_save=list(stored["modules_to_save"]) if stored["modules_to_save"] else None,
        layers_to_transform=list(layers) if layers else None,
    )


def rank_mismatch(adapter: AdapterFolder, record: Record) -> str | None:
    """Where the factors of a folder have another rank than its marker says; None if nowhere."""
    for name, blocks in record.layers.items():
        A, B = adapter.factors(name)
        ranks = {A.shape[0], B.shape[1]}  # of a stack, of all its experts together
        width = blocks[0].experts * sum(block.width for block in blocks)
        if ranks != {width}:
            return f"has rank {min(ranks - {width})} at {name}, where its {MARKER} says {width}"
    return None


def marker_mismatch(adapter: AdapterFolder, record: Record) -> str | None:
    """Why the factors of a folder are not those its marker speaks of; None if they are."""
    for name, blocks in record.layers.items():
        A, B = adapter.factors(name)
        # The scale may lie in the file's B.
        B = B * (_scale_in(adapter, name, blocks) / record.scaling[name])
        why = layer_mismatch(name, A, B, blocks, record)
        if why:
            return why
    return None
