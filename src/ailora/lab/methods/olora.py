"""OLoRA (Büyükakyüz 2024): orthonormal B and upper-triangular A from W = Q R."""

from __future__ import annotations

from peft import PeftModel
from torch import nn

from ailora.lab.methods.peft_starts import peft_config, start_from
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, whole_layers
from ailora.lab.settings import RunConfig


def olora(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's ``init_lora_weights="olora"`` on q and v, the base left untouched.

    Raises:
        UserError: The model's q and v are parts of a fused layer.
    """
    check_no_ranks(settings, "olora")
    found = whole_layers(model, "olora")
    return start_from(model, found, peft_config(model, found, settings, "olora"), settings)
