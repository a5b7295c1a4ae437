"""A saved adapter's folder, read and checked as far as that goes without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ailora.adapters.config import AILoRAConfig, Role
from ailora.adapters.files.saved import ANCHORS, FORMAT, MARKER
from ailora.errors import UserError

WEIGHTS = "adapter_model.safetensors"


class StockFactors(NamedTuple):
    """lora_A and lora_B of one module as PEFT saves them: (r, n) and (m, r), anchored rank 2r."""

    A: Tensor
    B: Tensor


@dataclass(frozen=True)
class SavedStart:
    """The marker and the anchors of an adapter's folder.

    Attributes:
        config: What the adapter was made with.
        anchors: By module name, ``"A"`` (A0) and, for folded adapters, ``"B"`` (B0).
    """

    config: AILoRAConfig
    anchors: Mapping[str, Mapping[str, Tensor]]


def read_start(folder: Path) -> SavedStart:
    """Marker and anchors of an adapter's folder.

    Raises:
        UserError: no adapter there, one without a marker, a marker that is broken or newer than
            this version, or missing anchors.
    """
    if not (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: no adapter_config.json there; give the folder of a saved adapter"
        )
    marker = folder / MARKER
    if not marker.exists():
        raise UserError(
            f"{folder}: has no {MARKER}, so it was not started by ailora; "
            "load it with peft.PeftModel.from_pretrained"
        )
    config = _read_marker(marker)
    anchors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _read_tensors(folder / ANCHORS).items():
        name, _, letter = key.rpartition(".")
        anchors.setdefault(name, {})[letter] = tensor
    return SavedStart(config, anchors)


def read_factors(folder: Path) -> dict[str, StockFactors]:
    """The saved factors by the name of the module they adapt.

    Raises:
        UserError: the file is missing, cut off or not an adapter's.
    """
    path = folder / WEIGHTS
    tensors = _read_tensors(path, ".lora_")  # heads and embeddings can be large
    pairs = {
        key.removesuffix(".lora_A.weight"): (tensor, tensors.get(key.replace("lora_A", "lora_B")))
        for key, tensor in tensors.items()
        if key.endswith(".lora_A.weight")
    }
    factors = {
        name.removeprefix("base_model.model."): StockFactors(A, B)
        for name, (A, B) in pairs.items()
        if B is not None
    }
    if not factors or len(factors) < len(pairs):
        raise UserError(f"{path}: does not hold a whole LoRA adapter; copy the folder again")
    return factors


def _read_marker(marker: Path) -> AILoRAConfig:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        if content["format"] == FORMAT:
            return _config(content["config"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{marker}: not a marker ailora wrote ({error}); save again") from error
    raise UserError(f"{marker}: format {content['format']!r} is not known; update ailora")


def _config(stored: dict[str, Any]) -> AILoRAConfig:
    known = {field.name for field in fields(AILoRAConfig)}
    values = {name: value for name, value in stored.items() if name in known}
    values["roles"] = {name: Role(**role) for name, role in stored["roles"].items()}
    return AILoRAConfig(**values)


def _read_tensors(path: Path, part: str = "") -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if part in name}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); copy the whole adapter folder, the anchor included"
        ) from error
