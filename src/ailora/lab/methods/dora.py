"""DoRA (Liu et al. 2024): LoRA of a weight's directions, with learned norms."""

from __future__ import annotations

from peft import PeftModel
from torch import nn

from ailora.adapters import get_peft_model, presets
from ailora.lab.methods.presets import configured
from ailora.lab.methods.settings import Batches, Settings


def dora(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PeftModel:
    """PEFT's ``use_dora`` on q and v.

    Raises:
        UserError: The model's q and v are parts of a fused layer, whose norms belong to others.
    """
    return get_peft_model(model, configured(presets.lora, model, settings, use_dora=True))
