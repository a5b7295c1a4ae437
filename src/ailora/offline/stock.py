"""A saved stock LoRA adapter: what it adds to each weight, whoever trained it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from ailora.adapters.files.reading import WEIGHTS
from ailora.checkpoints.source import opened
from ailora.errors import UserError

PREFIX = "base_model.model."
A_KEY, B_KEY = ".lora_A.weight", ".lora_B.weight"

# Starts of PEFT's own that subtract the factors from the base weight (or quantise it).
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# What makes an adapter more than a sum of W and a low-rank matrix for each module.
_NOT_PLAIN = (
    "use_dora",
    "lora_bias",
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)


@dataclass(frozen=True, kw_only=True)
class Update:
    """dW = scale B A of one module.

    Attributes:
        name: Dotted name of the module in the base model.
        A: (k, n), as stored.
        B: (m, k), as stored.
        scale: s, alpha / r by PEFT's rules.
    """

    name: str
    A: Tensor = field(repr=False)
    B: Tensor = field(repr=False)
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Rank k of the factors."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.B.shape[0], self.A.shape[1]

    def exact(self) -> tuple[Tensor, Tensor]:
        """A and s B, fp64."""
        return self.A.double(), self.B.double() * self.scale


@dataclass(frozen=True, kw_only=True)
class StockAdapter:
    """An adapter's folder.

    Attributes:
        folder: Where it lies.
        config: PEFT's configuration.
        updates: One a module, by name.
        whole: Tensors stored in full (modules_to_save, biases), by name in the base model.
    """

    folder: Path
    config: LoraConfig = field(repr=False)
    updates: Mapping[str, Update] = field(repr=False)
    whole: Mapping[str, Tensor] = field(repr=False)

    @property
    def base(self) -> str:
        """The model that it was trained on, as its config names it; may be empty."""
        return str(self.config.base_model_name_or_path or "")


def read_adapter(folder: Path) -> StockAdapter:
    """Read an adapter that PEFT (or this library) saved.

    Raises:
        UserError: There is none, it is broken, no LoRA, or does more than add s B A to weights.
    """
    config = _config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder}: no {WEIGHTS} there; save the adapter as safetensors with PEFT")
    with opened(path) as file:
        tensors = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    names = sorted(key.removesuffix(A_KEY) for key in tensors if key.endswith(A_KEY))
    updates = {name: _update(path, name, config, tensors) for name in names}
    factors = {name + letter for name in names for letter in (A_KEY, B_KEY)}
    whole = {key: tensor for key, tensor in tensors.items() if key not in factors}
    _check_whole(path, whole, config)
    if not updates:
        raise UserError(f"{path}: holds no LoRA factors; give the folder of a LoRA adapter")
    return StockAdapter(folder=folder, config=config, updates=updates, whole=whole)


def _config(folder: Path) -> LoraConfig:
    if not (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: no adapter_config.json there; give the folder of a saved adapter"
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{folder / 'adapter_config.json'}: cannot be read ({error})") from error
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder}: is a {type(config).__name__}; only LoRA adapters are exported")
    for name in _NOT_PLAIN:
        if getattr(config, name, None):
            raise UserError(
                f"{folder}: has {name}={getattr(config, name)!r}, which is no sum of W and a low-"
                "rank matrix; load it with PEFT and use merge_and_unload"
            )
    start = config.init_lora_weights
    if isinstance(start, str) and start.startswith(_CHANGE_THE_BASE):
        raise UserError(
            f"{folder}: was started by PEFT's {start!r}, which changes the base weights; save it "
            "with save_pretrained(..., path_initial_model_for_weight_conversion=...) first"
        )
    return config


def _update(path: Path, name: str, config: LoraConfig, tensors: Mapping[str, Tensor]) -> Update:
    A, B = tensors[name + A_KEY], tensors.get(name + B_KEY)
    if B is None or A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        raise UserError(
            f"{path}: the factors of {name} are not two matrices of one rank; only LoRA of linear "
            "layers is exported"
        )
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
    if rank != A.shape[0]:
        raise UserError(
            f"{path}: the factors of {name} have rank {A.shape[0]}, where adapter_config.json "
            f"says {rank}; copy the whole adapter folder again"
        )
    alpha = alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha)
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return Update(name=name, A=A, B=B, scale=scale)


def _check_whole(path: Path, whole: Mapping[str, Tensor], config: LoraConfig) -> None:
    saved: Sequence[str] = config.modules_to_save or ()
    for key in sorted(whole, key=lambda key: "lora_" not in key):  # these say most
        biased = config.bias != "none" and key.endswith(".bias")
        inside = any(f".{module}." in f".{key}." for module in saved)
        if "lora_" in key or not (biased or inside):
            raise UserError(
                f"{path}: holds {key!r}, which is neither a factor of a linear layer nor part of "
                "modules_to_save; load the adapter with PEFT instead"
            )
