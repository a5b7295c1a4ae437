"""`ailora.load_adapter`: a saved adapter again, exactly as it was, to use or to train on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from torch import Tensor, nn

from ailora.adapters.files.checks import check_fits, check_room
from ailora.adapters.files.reading import SavedStart, read_factors, read_start
from ailora.adapters.files.saved import StartedLoraConfig, remember
from ailora.adapters.optimizer import warn_if_rates_are_ignored
from ailora.adapters.starts.make import Start
from ailora.adapters.stock import peft_layers
from ailora.adapters.stock.folded import fold
from ailora.adapters.stock.four_bit import keep_gradients
from ailora.adapters.stock.surroundings import check_surroundings
from ailora.adapters.stock.tuner import use_started_tuner


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
            marker, for another model, or whose anchors do not belong to it; to be trained, if
            4-bit weights were packed for inference.
    """
    path = Path(folder)
    saved, factors = read_start(path), read_factors(path)
    if is_trainable:
        check_surroundings(saved.config)
        keep_gradients(model)
    check_room(model, saved.config, adapter_name)
    starts = check_fits(model, path, saved, factors)
    wrapped = _load_stock(model, path, adapter_name, is_trainable, autocast_adapter_dtype)
    use_started_tuner(wrapped)
    anchored = saved.config.base == "anchored"
    peft_layers.install(wrapped, adapter_name, starts, anchored=anchored)
    for name, (A, B) in factors.items():
        peft_layers.restore(wrapped, adapter_name, name, A, B)
    anchors: Mapping[str, Any] = peft_layers.anchors(wrapped, adapter_name)
    if not anchored:
        anchors = _refold(wrapped, adapter_name, starts, saved)
    remember(wrapped, adapter_name, saved.config, anchors)
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


def _refold(
    model: PeftModel, adapter: str, starts: Sequence[Start], saved: SavedStart
) -> dict[str, Tensor]:
    anchors: dict[str, Tensor] = {}
    for start in (start for start in starts if start.spectral):
        A, B = (saved.anchors[start.key][letter] for letter in "AB")
        fold(model, adapter, start.projection, A, B)
        anchors |= {f"{start.key}.A": A, f"{start.key}.B": B}
    return anchors
