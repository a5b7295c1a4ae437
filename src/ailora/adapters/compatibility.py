"""Launchers, libraries and layers with which anchored factors would train wrongly."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import peft
from torch import nn

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.peft_insides import saves_lora_only_biases
from ailora.adapters.selection import Selection
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

# What diffusers' loaders leave out of an adapter without a word.
NOT_LOADED_BY_DIFFUSERS = (
    "bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
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


def check_diffusers(model: nn.Module, config: AILoRAConfig, selection: Selection) -> None:
    """Raise a UserError where a diffusers model's saved adapter would be loaded as another one.

    Its files may be tensors alone (``save_lora_weights`` without metadata, kohya's format). Then
    each layer's rank is read from its tensors, and its lora_alpha is taken for the same number
    (diffusers 0.42, ``get_peft_kwargs``), so the scale has to be 1.
    """
    if not any(cls.__module__.startswith("diffusers.") for cls in type(model).__mro__):
        return
    kind = type(model).__name__
    if config.is_spectral and not config.anchored:
        raise UserError(
            f"anchored=False: diffusers would load the saved adapter on the {kind} as it was, and "
            "not on the residual that it is for; use anchored=True"
        )
    for field in NOT_LOADED_BY_DIFFUSERS:
        if getattr(config, field) not in (None, "none", [], {}):
            raise UserError(
                f"{field}={getattr(config, field)!r}: diffusers leaves that out when it loads an "
                f"adapter; leave it out for this {kind}"
            )
    scales = {name: layer[0].scaling for name, layer in selection.layers.items()}
    for name, (rank, alpha) in selection.others.items():
        scales[name] = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    for name, scale in scales.items():
        if not math.isclose(scale, 1, rel_tol=1e-6):
            raise UserError(
                f"{name} would have the scale {scale:g}, and diffusers takes 1 where a saved "
                "adapter has no metadata: leave lora_alpha, alpha_pattern and bake_rates out "
                "(lora_alpha is r then), and set rates in ailora.create_optimizer"
            )


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
