"""Orthogonal start (PEFT's): random A and B, neither of them zero, with B A = 0."""

from __future__ import annotations

import peft
from peft import LoraConfig, PeftModel
from torch import nn

from ailora.errors import UserError
from ailora.lab.methods.settings import Batches, Settings
from ailora.lab.methods.targets import check_no_ranks, common_fields, whole_layers


def orthogonal(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """PEFT's ``init_lora_weights="orthogonal"`` on q and v.

    B A is zero up to rounding, so the base is left as it is.

    Raises:
        UserError: The rank is odd, which the construction does not allow, or the model's q and v
            are parts of a fused layer.
    """
    check_no_ranks(settings, "orthogonal")
    if settings.rank % 2:
        raise UserError(f"rank={settings.rank}: method 'orthogonal' needs an even rank")
    found = whole_layers(model, "orthogonal")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.dropout,
        init_lora_weights="orthogonal",
        **common_fields(model, found, settings),
    )
    wrapped = peft.get_peft_model(model, config)
    config.init_lora_weights = True  # what is saved is a plain LoRA, not a recipe for another
    return wrapped
