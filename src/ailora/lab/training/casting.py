"""Frozen weights in 16 bits, kept while a run trains: autocast makes them anew at each pass.

Autocast remembers its casts of weights that train, until the pass ends, and none of frozen ones. On
a processor that is a tenth of a forward pass. What is computed is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def frozen_weights_cast_once(model: nn.Module) -> Iterator[None]:
    """Within it frozen linear layers on the processor take kept casts wherever autocast is on.

    Each layer holds its own weight whenever it does not compute; the casts need half of the memory
    of the weights. A weight that is changed in place is cast again, but not one that is changed
    through ``.data``, as PEFT merges adapters: do not merge within it.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if type(module) is nn.Linear and _is_frozen(module.weight):
                cast = _Cast(module)
                for hook in (
                    module.register_forward_pre_hook(cast.put),
                    module.register_forward_hook(cast.put_back, always_call=True),
                ):
                    hooks.callback(hook.remove)
        yield


class _Cast:
    """The cast of one layer's weight, made when it is first needed."""

    def __init__(self, layer: nn.Linear) -> None:
        self._weight = layer.weight
        self._version = -1
        self._cast: Tensor | None = None

    def put(self, layer: nn.Module, args: Any) -> None:
        """Let the layer compute with the cast; another weight that it was given is left alone."""
        weight = self._weight
        if layer.weight is not weight or not torch.is_autocast_enabled("cpu"):
            return
        if not _is_frozen(weight):
            return
        dtype = torch.get_autocast_dtype("cpu")
        if self._cast is None or self._cast.dtype != dtype or self._version != weight._version:
            self._cast, self._version = weight.detach().to(dtype), weight._version
        layer._parameters["weight"] = self._cast  # type: ignore[assignment]

    def put_back(self, layer: nn.Module, args: Any, output: Any) -> None:
        """Give the layer its own weight back, also where it raised."""
        if layer._parameters["weight"] is self._cast:
            layer._parameters["weight"] = self._weight  # type: ignore[assignment]


def _is_frozen(weight: Tensor) -> bool:
    on_processor = weight.device.type == "cpu"
    return on_processor and weight.dtype == torch.float32 and not weight.requires_grad
