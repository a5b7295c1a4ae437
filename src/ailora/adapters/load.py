"""`ailora.load_adapter`: a saved adapter again, exactly as it was, to use or to train on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from torch import nn

from ailora.adapters import peft_layers
from ailora.adapters.checks import check_fits, check_room
from ailora.adapters.config import AILoRAConfig
from ailora.adapters.folded import fold
from ailora.adapters.optimizer import warn_if_rates_are_ignored
from ailora.adapters.reading import SavedStart, read_factors, read_start
from ailora.adapters.saved import StartedLoraConfig, remember
from ailora.adapters.starts import projections_of


def load_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    adapter_name: str = "default",
    *,
    is_trainable: bool = False,
    autocast_adapter_dtype: bool = True,
) -> PeftModel:
    """Load an adapter that ailora started, its anchor and differences bit for bit.

    Stock ``PeftModel.from_pretrained`` serves for inference with anchored adapters; for training
    it would train the frozen half as well, and for folded adapters it lacks the residual base.

    Args:
        model: The original base model (untouched), or a PeftModel that gets one more adapter.
        folder: Folder written by ``save_pretrained`` or a Trainer checkpoint.
        adapter_name: Name of the adapter in the PEFT model.
        is_trainable: Whether its factors are to be trained on.
        autocast_adapter_dtype: As in PEFT.

    Raises:
        UserError: before the model is changed, if there is no adapter, or one without ailora's
            marker, for another model, or whose anchors do not belong to it.
    """
    path = Path(folder)
    saved, factors = read_start(path), read_factors(path)
    check_room(model, saved.config, adapter_name)
    check_fits(model, path, saved, factors)
    wrapped = _load_stock(model, path, adapter_name, is_trainable, autocast_adapter_dtype)
    anchored = saved.config.base == "anchored"
    anchors = (_reanchor if anchored else _refold)(wrapped, adapter_name, saved)
    remember(wrapped, adapter_name, saved.config, anchors)
    _restore_rates(wrapped, adapter_name, saved.config)
    if is_trainable:
        warn_if_rates_are_ignored(wrapped)
    return wrapped


def _load_stock(
    model: nn.Module, path: Path, adapter_name: str, is_trainable: bool, autocast: bool
) -> PeftModel:
    config = StartedLoraConfig.from_stock(PeftConfig.from_pretrained(str(path)))
    config.inference_mode = not is_trainable
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(
            model,
            str(path),
            adapter_name,
            is_trainable=is_trainable,
            config=config,
            autocast_adapter_dtype=autocast,
        )
    model.add_adapter(adapter_name, config, autocast_adapter_dtype=autocast)
    model.load_adapter(
        str(path), adapter_name, is_trainable=is_trainable, autocast_adapter_dtype=autocast
    )
    if is_trainable:  # PEFT does this only where it adds the adapter itself
        model.set_requires_grad(adapter_name)
    return model


def _reanchor(model: PeftModel, adapter: str, saved: SavedStart) -> Mapping[str, Any]:
    for name, anchor in saved.anchors.items():
        layer = peft_layers.lora_layer(model, name)
        A, B = (module[adapter].weight.detach() for module in (layer.lora_A, layer.lora_B))
        rank = anchor["A"].shape[0]
        peft_layers.put_anchored(layer, adapter, anchor["A"].to(A), B[:, rank:])
        layer.lora_A[adapter].set_delta(A[rank:])
        layer.lora_B[adapter].set_delta(B[:, :rank])
    return peft_layers.anchors(model, adapter)


def _refold(model: PeftModel, adapter: str, saved: SavedStart) -> Mapping[str, Any]:
    for name, anchor in saved.anchors.items():
        fold(peft_layers.lora_layer(model, name), adapter, anchor["A"], anchor["B"])
    return {
        f"{name}.{letter}": tensor
        for name, anchor in saved.anchors.items()
        for letter, tensor in anchor.items()
    }


def _restore_rates(model: PeftModel, adapter: str, config: AILoRAConfig) -> None:
    """Give every factor its role's rate again; "baked" has none, it is in the scale."""
    factors = peft_layers.factor_modules(model, adapter)
    for projection in projections_of(model, config):
        ratio = config.roles[projection.role].lr_ratio if config.lr_mode == "groups" else 1.0
        for module in factors[projection.name]:
            module.lr_ratio = ratio
