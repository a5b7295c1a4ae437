"""EVA (Paischer et al. 2024): A spans what the layers' inputs vary in, ranks go where it pays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import peft
import torch
from peft import EvaConfig, PeftModel
from torch import Tensor, nn

from ailora.errors import UserError
from ailora.lab.methods.peft_starts import Batch, batches_of, peft_config, token_mask
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, whole_layers
from ailora.lab.settings import RunConfig

_REDISTRIBUTION = 2.0  # PEFT's rho: a layer's rank is at most twice the mean


def eva(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's EVA on q and v; B is zero, so the base is left as it is.

    The sum of the ranks is that of LoRA, but a layer may have between 0 and twice the rank.

    Raises:
        UserError: No batches, or one with fewer tokens than a layer's highest rank, on which
            PEFT's decomposition would wait for ever; or q and v are parts of a fused layer.
    """
    check_no_ranks(settings, "eva")
    found = whole_layers(model, "eva")
    data = batches_of(model, batches, "eva")
    _check_tokens(data, settings)
    config = peft_config(model, found, settings, "eva", eva_config=EvaConfig(rho=_REDISTRIBUTION))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*low_cpu_mem_usage")
        wrapped = peft.get_peft_model(model, config)
    peft.initialize_lora_eva_weights(
        wrapped,
        data,
        prepare_model_inputs_fn=lambda batch, _: batch,
        prepare_layer_inputs_fn=_tokens,
        show_progress_bar=False,
    )
    saved = wrapped.peft_config["default"]
    saved.init_lora_weights, saved.eva_config = True, None  # what is saved is a plain LoRA
    return wrapped


def _check_tokens(data: Sequence[Batch], settings: RunConfig) -> None:
    needed = round(settings.rank * _REDISTRIBUTION)
    fewest = min(int(batch["input_ids"].numel()) for batch in data)
    for batch in data:
        if "attention_mask" in batch:
            fewest = min(fewest, int(batch["attention_mask"].sum()))
    if fewest < needed:
        raise UserError(
            f"method 'eva' at rank {settings.rank} needs batches of {needed} tokens or more, and "
            f"one has {fewest}; give larger batches or a smaller rank"
        )


def _tokens(inputs: Any, batch: Batch, layer: str) -> Tensor:
    """A layer's inputs without padding, (tokens, width) in fp32."""
    hidden: Tensor = inputs if isinstance(inputs, Tensor) else inputs[0]
    mask = token_mask(batch, hidden.shape[:-1])
    rows = hidden.flatten(0, -2) if mask is None else hidden[mask]
    return rows.to(torch.float32)
