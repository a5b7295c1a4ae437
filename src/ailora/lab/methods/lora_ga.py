"""LoRA-GA (Wang et al. 2024): factors from the gradient that full fine-tuning begins with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from peft import LoraGAConfig, PeftModel
from peft.tuners.lora import preprocess_loraga
from torch import nn

from ailora.errors import UserError
from ailora.lab.methods.peft_starts import Batch, batches_of, peft_config, start_from
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, whole_layers
from ailora.lab.settings import RunConfig

_GRADIENT = "_peft_loraga_grad"


def lora_ga(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's LoRA-GA on q and v (its defaults: ArB2r, stable scale), the base left untouched.

    Raises:
        UserError: No batches, or without labels; or q and v are parts of a fused layer.
    """
    check_no_ranks(settings, "lora_ga")
    found = whole_layers(model, "lora_ga")
    data = batches_of(model, batches, "lora_ga")
    config = peft_config(model, found, settings, "lora_ga", lora_ga_config=LoraGAConfig())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook")  # it only counts
            preprocess_loraga(model, config, lambda: _backward(model, data))
        return start_from(model, found, config, settings)
    finally:
        for projection in found:
            if hasattr(projection.module, _GRADIENT):
                delattr(projection.module, _GRADIENT)


def _backward(model: nn.Module, data: Sequence[Batch]) -> None:
    for batch in data:
        loss = model(**batch).loss
        if loss is None:
            raise UserError("method 'lora_ga' needs batches with labels, to have a gradient")
        loss.backward()
