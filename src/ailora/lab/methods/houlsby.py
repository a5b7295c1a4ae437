"""Adapter tuning (Houlsby et al. 2019): two small modules in each layer."""

from __future__ import annotations

import re
from collections import Counter
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from ailora.errors import UserError
from ailora.lab.methods.bottleneck import follow
from ailora.lab.methods.head import head_parameters
from ailora.lab.methods.settings import Batches, Settings
from ailora.lab.methods.storage.kept import Kept, keep
from ailora.lab.methods.targets import check_no_ranks
from ailora.roles import RoleName, find_projections, unwrapped
from ailora.roles.naming import matches
from ailora.roles.walk import model_type
from ailora.roles.weights import is_projection, shape_of

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
_LAYER = re.compile(r"^(.*?\.\d+)\.")


def houlsby(
    model: nn.Module, settings: Settings, batches: Batches | None = None
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
    return keep(
        cast(PreTrainedModel, model), Kept(method="houlsby", bottleneck=settings.bottleneck)
    )


def adapted_layers(model: nn.Module) -> list[str]:
    """Names of the layers that an adapter follows, two a transformer layer."""
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
