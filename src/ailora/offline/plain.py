"""Writes an adapter as servers want it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ailora.adapters.files.reading import WEIGHTS
from ailora.adapters.files.saved import in_order
from ailora.checkpoints.writer import whole_folder
from ailora.offline.stock import A_KEY, B_KEY, PREFIX, StockAdapter


def write_adapter(adapter: StockAdapter, out: Path, base: str) -> int:
    """Write an adapter as servers want it: one rank, every scale in the factors, alpha = r.

    Factors of lower rank are padded with zeros. A factor keeps its dtype if its values fit
    without rounding, else it becomes fp32.

    Args:
        adapter: What to write; its config gives the rest (target modules, task).
        out: A new or empty folder.
        base: The model that it is for.

    Returns:
        The rank.

    Raises:
        UserError: The folder cannot be written.
    """
    rank = max(update.rank for update in adapter.updates.values())
    tensors = {PREFIX + name: tensor.contiguous() for name, tensor in adapter.whole.items()}
    for name, update in adapter.updates.items():
        A, B = update.exact()
        dtype = torch.promote_types(update.A.dtype, update.B.dtype)
        tensors[PREFIX + name + A_KEY] = _stored(_padded(A, rank, 0), dtype)
        tensors[PREFIX + name + B_KEY] = _stored(_padded(B, rank, 1), dtype)
    config = replace(adapter.config)
    for key, value in _plain_fields(rank, base).items():
        setattr(config, key, value)
    in_order(config)
    with whole_folder(out) as temporary:
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(temporary))
    return rank


def _plain_fields(rank: int, base: str) -> dict[str, Any]:
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


def _padded(matrix: Tensor, rank: int, dim: int) -> Tensor:
    missing = rank - matrix.shape[dim]
    if not missing:
        return matrix
    shape = [missing if axis == dim else size for axis, size in enumerate(matrix.shape)]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=dim)


def _stored(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    kept = matrix.to(dtype)
    if torch.equal(kept.double(), matrix):
        return kept.contiguous()
    return matrix.to(torch.promote_types(dtype, torch.float32)).contiguous()
