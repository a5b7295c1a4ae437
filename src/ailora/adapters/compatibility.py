"""Launchers, libraries and layers with which anchored factors would train wrongly."""

from __future__ import annotations

import os
import sys
from typing import Any

import peft
from torch import nn

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.peft_insides import saves_lora_only_biases
from ailora.errors import UserError
from ailora.roles.projection import check_not_packed

FSDP1 = (
    "FSDP version 1 was never tried with these factors; set fsdp_version: 2 (accelerate launch "
    "--fsdp_version 2), or use the files of `ailora init` on a plain LoRA"
)
BIASES = (
    "bias='lora_only': PEFT {} trains these biases and leaves them out of what it saves; use "
    "bias='all', bias='none' or peft>=0.21"
)
UNSLOTH = (
    "Unsloth is imported: its kernels take LoRA weights past the layers that keep their anchors; "
    "train the files of `ailora init` with it, or leave Unsloth out"
)


def check_compatible(config: AILoRAConfig) -> None:
    """Raise a UserError where anchored factors would train wrongly.

    ``accelerate launch`` announces FSDP by environment variables. Folded and Gaussian factors are
    plain LoRA and work with all of them. Biases that PEFT trains and does not save are refused for
    any factors.
    """
    if config.bias == "lora_only" and not saves_lora_only_biases():
        raise UserError(BIASES.format(peft.__version__))
    if not (config.anchored and config.is_spectral):
        return
    if fsdp_version() == 1:
        raise UserError(FSDP1)
    if "unsloth" in sys.modules:
        raise UserError(UNSLOTH)


def fsdp_version() -> int | None:
    """Version of FSDP that ``accelerate launch`` set up for this process; None where it did not."""
    if not _is_on("ACCELERATE_USE_FSDP"):
        return None
    return int(os.environ.get("FSDP_VERSION", "1"))


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def keep_gradients(model: nn.Module) -> None:
    """Have bitsandbytes' 4-bit layers of a model that is to be trained stay as they were loaded.

    On processors with AVX512-BF16, `Linear4bit` packs its weight anew at the first forward pass in
    eval mode, and the kernel for what is packed has no gradient: an evaluation would cut every
    later gradient off below that layer, with no more than a warning (bitsandbytes 0.50.2,
    ``nn/modules.py``).

    Raises:
        UserError: before the model is changed, if a forward pass has packed one already.
    """
    layers: dict[str, Any] = {
        name: module
        for name, module in model.named_modules()
        if getattr(module, "support_avx512bf16_for_cpu", False)
    }
    for name, layer in layers.items():
        check_not_packed(layer, name)
    for layer in layers.values():
        layer.support_avx512bf16_for_cpu = False
