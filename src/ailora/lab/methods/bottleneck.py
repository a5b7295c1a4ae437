"""The module of Houlsby et al. 2019, and how it comes after a layer of any model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "houlsby"  # of the adapter inside the layer that it follows
_START = 1e-3  # standard deviation of the original code (section 3.6: below 1e-2 all is well)
_NARROW = (torch.float16, torch.bfloat16)


class Bottleneck(nn.Module):
    """h + up(GELU(down(h))), h of width n, through a bottleneck of width b.

    Both weights start normal with standard deviation 1e-3, cut off at two of them, and both biases
    at zero: nearly the identity. Over 16-bit layers the parameters are fp32.

    Args:
        width: n.
        bottleneck: b.
        like: The weight of the layer that it follows, for device and dtype.
    """

    def __init__(self, width: int, bottleneck: int, like: Tensor) -> None:
        super().__init__()
        dtype = torch.float32 if like.dtype in _NARROW else like.dtype
        self.down = nn.Linear(width, bottleneck, device=like.device, dtype=dtype)
        self.up = nn.Linear(bottleneck, width, device=like.device, dtype=dtype)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=_START, a=-2 * _START, b=2 * _START)
            nn.init.zeros_(linear.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Shape and dtype of h stay."""
        inner: Tensor = self.up(functional.gelu(self.down(h.to(self.down.weight.dtype))))
        return h + inner.to(h.dtype)


def follow(layer: nn.Module, width: int, bottleneck: int) -> None:
    """Let an adapter follow a layer.

    The layer stays the module it was, under its name and with its weights, so whatever looks at
    ``layer.weight`` (T5 does) and whatever loads the base model sees no change.
    """
    layer.add_module(NAME, Bottleneck(width, bottleneck, layer.get_parameter("weight")))
    layer.register_forward_hook(_through_adapter)


def _through_adapter(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    adapted: Tensor = layer.get_submodule(NAME)(output)
    return adapted
