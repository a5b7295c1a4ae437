"""Plain LoRA: which saved adapters are nothing more, and how one is written for servers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from ailora.adapters.config import check_rank
from ailora.adapters.folder import (
    A_KEY,
    B_KEY,
    AdapterFolder,
    check_finite,
    read_adapter,
)
from ailora.adapters.folding import CHANGE_THE_BASE
from ailora.adapters.record import CONFIG, PREFIX, WEIGHTS, sort_names
from ailora.checkpoints.resumable import whole_folder
from ailora.errors import UserError
from ailora.files import write_atomic

Rank = int | float  # a rank, or the share of the energy ||dW||_F^2 that is to be kept
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


def read_plain(folder: Path) -> AdapterFolder:
    """Read a saved adapter that adds s B A to weights, and may store some modules in full.

    Raises:
        UserError: there is none, it is broken, no LoRA, holds NaN, or does more than that.
    """
    adapter = read_adapter(folder)
    # With bias="all", PEFT saves the biases of whole modules under two more names that it never
    # reads: those of what was trained, and those that lay there unused.
    unread = (".modules_to_save.", ".original_module.")
    whole = {k: v for k, v in adapter.whole.items() if not any(part in k for part in unread)}
    adapter = replace(adapter, whole=whole)
    config = adapter.config
    for name in _NOT_PLAIN:
        if getattr(config, name, None):
            raise UserError(
                f"{folder}: has {name}={getattr(config, name)!r}, which is no sum of W and a low-"
                "rank matrix; load it with PEFT and use merge_and_unload"
            )
    start = config.init_lora_weights
    if isinstance(start, str) and start.startswith(CHANGE_THE_BASE):
        raise UserError(
            f"{folder}: was started by PEFT's {start!r}, which changes the base weights; save it "
            "with save_pretrained(..., path_initial_model_for_weight_conversion=...) first"
        )
    _check_whole(adapter)
    check_finite(adapter)
    return adapter


def _check_whole(adapter: AdapterFolder) -> None:
    """Every tensor stored in full must be of ``modules_to_save``, or a trained bias."""
    config, whole = adapter.config, adapter.whole
    inside = {key for key in whole if _is_saved(key, config.modules_to_save or ())}
    inside |= base_copies(adapter)
    for key in sorted(whole, key=lambda key: "lora_" not in key):  # these say most
        biased = config.bias != "none" and key.endswith(".bias")
        # ensure_weight_tying stores the tied module as well, which modules_to_save does not name.
        tied = config.ensure_weight_tying and any(
            torch.equal(whole[key], whole[other]) for other in inside
        )
        if ".lora_embedding_" in key:
            raise UserError(
                f"{adapter.folder / WEIGHTS}: adapts the embedding {key.partition('.lora_')[0]}, "
                "where only linear layers can be exported or merged; load it with PEFT and use "
                "merge_and_unload"
            )
        if "lora_" in key or not (biased or tied or key in inside):
            raise UserError(
                f"{adapter.folder / WEIGHTS}: holds {key!r}, which is neither a factor of a linear "
                "layer nor part of modules_to_save; load the adapter with PEFT instead"
            )


def check_rank_or_share(rank: Rank) -> None:
    """Raise a UserError unless it is an integer of at least 1, or a float between 0 and 1."""
    if isinstance(rank, float):
        if not 0 < rank < 1:
            raise UserError(
                f"rank={rank!r}: give an integer, or a share of the energy of dW between 0 and 1 "
                "such as 0.95"
            )
        return
    check_rank("rank", rank)


def base_copies(adapter: AdapterFolder) -> set[str]:
    """The base's own weights of adapted layers, which PEFT saves beside factors of ``lm_head``."""
    return {f"{name}.base_layer.weight" for name in adapter.updates} & adapter.whole.keys()


def without_copies(adapter: AdapterFolder) -> AdapterFolder:
    """The adapter without `base_copies`."""
    copies = base_copies(adapter)
    return replace(adapter, whole={k: v for k, v in adapter.whole.items() if k not in copies})


def _is_saved(key: str, modules: Sequence[str]) -> bool:
    """Whether PEFT trains a tensor's module in full: "classifier" is "pre_classifier" as well."""
    parts = key.split(".")
    owners = (".".join(parts[:count]) for count in range(1, len(parts)))
    return any(owner.endswith(module) for owner in owners for module in modules)


def write_plain(adapter: AdapterFolder, out: Path, base: str) -> int:
    """Write an adapter as servers want it: one rank, every scale in the factors, alpha = r.

    Factors of lower rank are padded with zeros. A factor keeps its dtype if its values fit
    without rounding, else it becomes fp32.

    Args:
        adapter: What to write; its config gives the rest (target modules, task).
        out: A new or empty folder.
        base: The model that it is for; may be empty.

    Returns:
        The rank.

    Raises:
        UserError: the folder cannot be written.
    """
    rank = max(update.rank for update in adapter.updates.values())
    tensors = {PREFIX + name: tensor.contiguous() for name, tensor in adapter.whole.items()}
    for name, update in adapter.updates.items():
        A, B = update.exact()
        dtype = torch.promote_types(update.A.dtype, update.B.dtype)
        tensors[PREFIX + name + A_KEY] = _stored(padded(A, rank, 0), dtype)
        tensors[PREFIX + name + B_KEY] = _stored(padded(B, rank, 1), dtype)
    config = replace(adapter.config)
    for key, value in plain_fields(rank, base).items():
        setattr(config, key, value)
    sort_names(config)
    with whole_folder(out) as temporary:
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(temporary))
        adapter.check_unchanged()
    return rank


def write_config(config: LoraConfig, folder: Path) -> None:
    """Write an adapter's config beside its weights, whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        write_atomic(folder / CONFIG, (Path(scratch) / CONFIG).read_bytes())


def plain_fields(rank: int, base: str) -> dict[str, Any]:
    """The fields of a config that are the same in every plain LoRA of that rank."""
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "base_model_name_or_path": base or None,
    }


def padded(matrix: Tensor, rank: int, dim: int) -> Tensor:
    """A factor with zeros up to that rank."""
    missing = rank - matrix.shape[dim]
    if not missing:
        return matrix
    shape = [missing if axis == dim else size for axis, size in enumerate(matrix.shape)]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=dim)


def _stored(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    cast = matrix.to(dtype)
    if torch.equal(cast.double(), matrix):
        return cast.contiguous()
    return matrix.to(torch.promote_types(dtype, torch.float32)).contiguous()
