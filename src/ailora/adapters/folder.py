"""The folder of a saved LoRA adapter, whoever saved it: one reader for loading and export."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ailora.adapters.peft_insides import from_pattern
from ailora.adapters.record import (
    CONFIG,
    PREFIX,
    WEIGHTS,
)
from ailora.adapters.stored_types import config_damage
from ailora.errors import UserError
from ailora.files import Seen, check_unchanged, require_file, seen
from ailora.linalg import LowRank

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
