"""Adapter tuning (Houlsby et al. 2019): two small modules in each layer."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from ailora.errors import UserError
from ailora.lab.methods.saving import MethodRecord, mark
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, head_parameters
from ailora.lab.settings import RunConfig
from ailora.roles import RoleName, find_projections, unwrapped
from ailora.roles.architectures import matches
from ailora.roles.projection import is_projection, shape_of
from ailora.roles.walk import model_type

# The last matrix of a layer's feed-forward part, as the families spell it.
_FEED_FORWARD = (
    "output.dense",  # BERT, RoBERTa, ELECTRA, MPNet, DeBERTa
    "ffn.lin2",  # DistilBERT
    "ffn_output",  # ALBERT
    "mlp.down_proj",  # LLaMA, Qwen, Mistral, Gemma, SmolLM3
    "mlp.c_proj",  # GPT-2
    "fc2",  # BART, OPT
    "DenseReluDense.wo",  # T5
)
NAME = "houlsby"  # name of the adapter in the layer that it follows
_START = 1e-3  # standard deviation of the original code (section 3.6: below 1e-2 all is well)
_NARROW = (torch.float16, torch.bfloat16)
_LAYER = re.compile(r"^(.*?\.\d+)\.")


def houlsby(
    model: nn.Module, settings: RunConfig, batches: Batches | None = None
) -> PreTrainedModel:
    """Put an adapter after self-attention's output and after the feed-forward part of each layer.

    Both act before the residual sum, as in the paper's figure 2. (Where a model drops out those
    outputs, the adapter comes before that dropout, in the original after it: in training alone,
    these differ.) Layer norms stay frozen: so counted, RoBERTa-large has 7.40M trainable
    parameters with its head, the number that the AILoRA paper gives; with its layer norms, which
    Houlsby et al. do train, it would be 7.49M.

    Raises:
        UserError: A layer has not one feed-forward part of a known spelling, or the model has no
            self-attention that is known.
    """
    check_no_ranks(settings, "houlsby")
    places = adapted_layers(model)
    model.requires_grad_(False)
    for name in places:
        layer = model.get_submodule(name)
        follow(layer, shape_of(layer)[0], settings.bottleneck)
    for _, parameter in head_parameters(model):
        parameter.requires_grad_(True)
    return mark(
        cast(PreTrainedModel, model), MethodRecord(method="houlsby", bottleneck=settings.bottleneck)
    )


def adapted_layers(model: nn.Module) -> list[str]:
    """Names of the layers that an adapter follows, two per transformer layer."""
    roles: list[RoleName] = ["o"]
    attention = {found.name: found.attention for found in find_projections(model, roles)}
    outputs = [name for name, kind in attention.items() if kind == "self"]
    layers = {_layer_of(name) for name in outputs}
    feeds = [
        name
        for name, module in unwrapped(model).named_modules()
        if name not in attention
        and _layer_of(name) in layers
        and is_projection(module)
        and any(matches(name, spelling) for spelling in _FEED_FORWARD)
    ]
    found = Counter(map(_layer_of, feeds))
    odd = sorted(layer for layer in layers if found[layer] != 1)
    if odd:
        raise UserError(
            f"method 'houlsby' does not know the feed-forward part of {type(model).__name__} "
            f"(model type {model_type(model)!r}): {odd[0]} has {found[odd[0]]} layers named "
            f"{', '.join(_FEED_FORWARD)}, and there must be one; choose another method"
        )
    return sorted([*outputs, *feeds])


def _layer_of(name: str) -> str:
    found = _LAYER.match(name)
    return found.group(1) if found else ""


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
