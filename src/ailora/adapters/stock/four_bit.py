"""bitsandbytes' 4-bit layers on processors with AVX512-BF16, kept fit for training.

There, `Linear4bit` packs its weight anew at the first forward pass in eval mode, and the kernel for
what is packed has no gradient: an evaluation would cut every later gradient off below that layer,
with no more than a warning (bitsandbytes 0.50.2, ``nn/modules.py``).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ailora.roles.weights import check_not_packed


def keep_gradients(model: nn.Module) -> None:
    """Have the 4-bit layers of a model that is to be trained stay as they were loaded.

    Raises:
        UserError: before the model is changed, if a forward pass has packed one already.
    """
    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if _packs_itself(module)
    }
    for name, layer in layers.items():
        check_not_packed(layer, name)
    for layer in layers.values():
        layer.support_avx512bf16_for_cpu = False


def _packs_itself(module: nn.Module) -> bool:
    return getattr(module, "support_avx512bf16_for_cpu", False)
