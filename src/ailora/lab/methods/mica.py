"""MiCA (arXiv 2604.01694): B frozen at minor left singular vectors, A learns from zero."""

from __future__ import annotations

import peft
from peft import PeftModel
from torch import nn

from ailora.errors import UserError
from ailora.lab.methods.peft_starts import peft_config
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, whole_layers
from ailora.lab.settings import RunConfig


def mica(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's ``init_lora_weights="mica"`` on q and v: half of LoRA's trainable parameters.

    The saved config keeps that name, since it is what freezes B again when training goes on. With
    it a stock ``from_pretrained`` decomposes the weights anew, only to replace the result by what
    was saved, unless told ``low_cpu_mem_usage=True``, as `ailora.lab.methods.load` does.

    Raises:
        UserError: The rank is above a weight's size, or the model's q and v are parts of a fused
            layer.
    """
    check_no_ranks(settings, "mica")
    found = whole_layers(model, "mica")
    most = min(min(projection.shape) for projection in found)
    if settings.rank > most:
        raise UserError(f"rank={settings.rank}: can be {most} at most in this model")
    config = peft_config(model, found, settings, "mica")
    return peft.get_peft_model(model, config)
