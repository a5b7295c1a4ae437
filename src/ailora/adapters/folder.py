"""The folder of a saved LoRA adapter, whoever saved it: one reader for loading and export."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ailora.adapters.config import AILoRAConfig, Role, from_json
from ailora.adapters.factors import Block
from ailora.adapters.fingerprints import Base
from ailora.adapters.peft_insides import from_pattern
from ailora.adapters.record import (
    ANCHORS,
    CONFIG,
    FORMAT,
    MARKER,
    PREFIX,
    WEIGHTS,
    Record,
    Sketch,
    layer_mismatch,
)
from ailora.adapters.selection import select
from ailora.adapters.stored_types import block_of, config_damage, number
from ailora.errors import UserError
from ailora.files import Seen, check_unchanged, parse_json, read_text, require_file, seen
from ailora.linalg import LowRank
from ailora.roles.parts import PART_NAMES, PartName
from ailora.roles.walk import walk

_MOST_COMPARED = 2_000_000
A_KEY, B_KEY = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True, repr=False)  # of tensors
class AdapterFolder:
    """A saved LoRA adapter.

    Attributes:
        folder: Path of the folder.
        config: PEFT's configuration.
        updates: What it adds to each linear layer, by the module's name in the base model.
        whole: All other tensors, by name (heads, embeddings, biases).
        stacks: A' and B' of parameters (``target_parameters``), by the name of PEFT's wrapper.
        read: Its files as they were when they were read, by path.
    """

    folder: Path
    config: LoraConfig
    updates: Mapping[str, LowRank]
    whole: Mapping[str, Tensor]
    stacks: Mapping[str, tuple[Tensor, Tensor]]
    read: Mapping[Path, Seen]

    def check_unchanged(self) -> None:
        """Raise a UserError if a file is no longer the one that was read."""
        for path, before in self.read.items():
            check_unchanged(path, before)

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A' and B' of a layer or a parameter."""
        if name in self.stacks:
            return self.stacks[name]
        return self.updates[name].A, self.updates[name].B

    @property
    def base(self) -> str:
        """The model that it was trained on, as its config names it; may be empty."""
        return str(self.config.base_model_name_or_path or "")


def read_adapter(folder: Path) -> AdapterFolder:
    """Read an adapter that PEFT or this library saved; every tensor is mapped from its file.

    Raises:
        UserError: there is none, it is a pickle, broken, or no LoRA.
    """
    path = folder / WEIGHTS
    read = {one: seen(one) for one in (folder / CONFIG, path) if one.is_file()}
    config = read_config(folder)
    require_weights(folder)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(path).items()}
    names = sorted(key.removesuffix(A_KEY) for key in tensors if key.endswith(A_KEY))
    of_parameters = [name for name in names if _is_of_parameter(name, config)]
    stacks = {
        name: (tensors[name + A_KEY], tensors[name + B_KEY])
        for name in of_parameters
        if name + B_KEY in tensors
    }
    names = [name for name in names if name not in of_parameters]
    _check_patterns(path.with_name(CONFIG), config, len(names))
    updates = {name: _update(path, name, config, tensors) for name in names}
    factors = {name + letter for name in names for letter in (A_KEY, B_KEY)}
    if not (updates or stacks):
        raise UserError(f"{path}: holds no LoRA factors; give the folder of a LoRA adapter")
    whole = {key: tensor for key, tensor in tensors.items() if key not in factors}
    return AdapterFolder(
        folder=folder, config=config, updates=updates, whole=whole, stacks=stacks, read=read
    )


def require_weights(folder: Path) -> None:
    """Raise a UserError if an adapter's weights are not there, or are a pickle alone."""
    if (folder / WEIGHTS).is_file():
        return
    pickled = folder / "adapter_model.bin"
    raise UserError(
        f"{pickled}: is a pickle, which can run code and is never loaded; where you trust it, "
        f"load it with peft.PeftModel.from_pretrained(model, {str(folder)!r}) and save it with "
        f"save_pretrained({str(folder)!r}), which writes safetensors"
        if pickled.is_file()
        else f"{folder}: no {WEIGHTS} there; copy the whole adapter folder again"
    )


def _check_patterns(path: Path, config: LoraConfig, layers: int) -> None:
    """Raise a UserError where it would take minutes to find each layer's rank and scale."""
    entries = len(config.rank_pattern or ()) + len(config.alpha_pattern or ())
    if entries * layers > _MOST_COMPARED:
        raise UserError(
            f"{path}: rank_pattern and alpha_pattern have {entries} entries for {layers} layers, "
            'which takes minutes to compare; write them by the ends of names, as "q_proj"'
        )


def _is_of_parameter(name: str, config: LoraConfig) -> bool:
    """Whether factors are of a parameter of a module (``target_parameters``), not of a layer."""
    owners = {entry.rpartition(".")[0] for entry in config.target_parameters or ()}
    module = name.replace(".base_layer", "")
    return any(module == owner or module.endswith(f".{owner}") for owner in owners)


def renamed(adapter: AdapterFolder, key_mapping: Mapping[str, str]) -> dict[str, str]:
    """New names of modules that the model no longer has by their old ones, by PEFT's rule.

    Args:
        adapter: Saved before transformers renamed the modules.
        key_mapping: Patterns and replacements, as PEFT's ``key_mapping``; the first that fits.
    """
    found = {}
    for name in adapter.updates:
        for pattern, replacement in key_mapping.items():
            key, count = re.subn(pattern, replacement, name + A_KEY)
            if count:
                found[name] = key.removesuffix(A_KEY)
                break
    return found


def check_finite(adapter: AdapterFolder) -> None:
    """Raise a UserError if a factor holds NaN or infinity."""
    for name in (*adapter.updates, *adapter.stacks):
        if not all(torch.isfinite(matrix).all() for matrix in adapter.factors(name)):
            raise UserError(
                f"{adapter.folder / WEIGHTS}: the factors of {name} hold NaN or infinity, so its "
                "training diverged; use an earlier checkpoint"
            )


def read_config(folder: Path) -> LoraConfig:
    """PEFT's config of a saved LoRA. Raises a UserError for anything else."""
    config = read_any_config(folder)
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder}: is a {type(config).__name__}; only LoRA adapters are read")
    return config


def read_any_config(folder: Path) -> PeftConfig:
    """PEFT's config of a saved adapter of any kind, its types looked at. Raises a UserError."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: {_nothing_there(folder)}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT looks at none of its types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{folder / CONFIG}: cannot be read ({reason}); copy the whole adapter folder again"
        ) from error
    damage = config_damage(config)
    if damage:
        raise UserError(f"{folder / CONFIG}: {damage}; copy the whole adapter folder again")
    return config


def _nothing_there(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder; give the folder of a saved adapter"
    inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inside:
        return f"the adapters {', '.join(inside)} lie in folders below it; give {inside[0]!r}'s"
    return f"no {CONFIG} there; give the folder of a saved adapter"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        require_file(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); copy the whole adapter folder again"
        ) from error


def _update(path: Path, name: str, config: LoraConfig, tensors: Mapping[str, Tensor]) -> LowRank:
    A, B = tensors[name + A_KEY], tensors.get(name + B_KEY)
    floating = B is not None and A.is_floating_point() and B.is_floating_point()
    if B is None or not floating or A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        raise UserError(
            f"{path}: the factors of {name} are not two matrices of one rank; copy the whole "
            "adapter folder again (only LoRA of linear layers is read)"
        )
    rank = from_pattern(config.rank_pattern, name, config.r)
    if rank != A.shape[0]:
        raise UserError(
            f"{path}: the factors of {name} have rank {A.shape[0]}, where {CONFIG} says {rank}; "
            "copy the whole adapter folder again"
        )
    alpha = from_pattern(config.alpha_pattern, name, config.lora_alpha)
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return LowRank(A=A, B=B, scale=scale)


# --- What this library wrote beside it -------------------------------------------------------


def is_started(folder: Path) -> bool:
    """Whether a folder has this library's marker."""
    return (folder / MARKER).is_file()


def read_form(folder: Path) -> str | None:
    """``"anchored"`` or ``"folded"`` as the marker says; None without one that can be read."""
    try:
        stored = parse_json(read_text(folder / MARKER))
        return str(stored["form"] if stored["format"] != 1 else stored["config"]["base"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def needs_model(folder: Path) -> bool:
    """Whether `read_record` needs the base model as well: the files are of version 0.1.0."""
    try:
        return bool(parse_json(read_text(folder / MARKER))["format"] == 1)
    except (OSError, ValueError, KeyError, TypeError):
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
