"""Orthogonal start (PEFT's): random A and B, neither of them zero, with B A = 0."""

from __future__ import annotations

import peft
from peft import PeftModel
from torch import nn

from ailora.errors import UserError
from ailora.lab.methods.peft_starts import peft_config
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, whole_layers
from ailora.lab.settings import RunConfig


def orthogonal(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
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
    config = peft_config(model, found, settings, "orthogonal")
    wrapped = peft.get_peft_model(model, config)
    config.init_lora_weights = True  # what is saved is a plain LoRA, not a recipe for another
    return wrapped
