"""The one place that touches PEFT's layers: everything relied on has a contract test."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.factors import AnchoredA, AnchoredB
from ailora.adapters.saved import StartedLoraConfig
from ailora.adapters.starts import Start
from ailora.roles import unwrapped


def lora_config(model: nn.Module, config: AILoRAConfig, starts: Sequence[Start]) -> LoraConfig:
    """The stock configuration of the adapter: every field is PEFT's own.

    ``init_lora_weights`` stays True: a saved "pissa" would run its SVD again at load and
    overwrite the base. Spectral anchored factors have twice the rank and twice the alpha, which
    leaves PEFT's scale alpha / r as it is.
    """
    ranks = {start.name: _stock_rank(start, config) for start in starts}
    alphas = {start.name: _plain(start.scaling * ranks[start.name]) for start in starts}
    common_rank = Counter(ranks.values()).most_common(1)[0][0]
    common_alpha = Counter(alphas.values()).most_common(1)[0][0]
    return StartedLoraConfig(
        r=common_rank,
        lora_alpha=cast(int, common_alpha),
        lora_dropout=config.dropout,
        target_modules=_shortest(model, set(ranks)),
        rank_pattern=_pattern(model, ranks, common_rank),
        alpha_pattern=_pattern(model, alphas, common_alpha),
        task_type=config.task_type,
        modules_to_save=list(config.modules_to_save) if config.modules_to_save else None,
        init_lora_weights=True,
    )


def install(model: PeftModel, adapter: str, starts: Sequence[Start], *, anchored: bool) -> None:
    """Put the starting factors into the adapter's layers; the base is not touched.

    Factors get the dtype that PEFT gave the adapter (fp32 over fp16 and bf16 bases unless asked
    otherwise).
    """
    for start in starts:
        layer = lora_layer(model, start.name)
        if anchored and start.spectral:
            like = layer.lora_A[adapter].weight
            put_anchored(layer, adapter, start.A.to(like), start.B.to(like), start.lr_ratio)
        else:
            _put_plain(layer, adapter, start)


@torch.no_grad()
def _put_plain(layer: LoraLayer, adapter: str, start: Start) -> None:
    for module, value in ((layer.lora_A[adapter], start.A), (layer.lora_B[adapter], start.B)):
        module.weight.copy_(value)
        module.lr_ratio = start.lr_ratio


def put_anchored(
    layer: LoraLayer, adapter: str, A: Tensor, B: Tensor, lr_ratio: float = 1.0
) -> None:
    """Replace a stock layer's two factors by anchored ones that start from A and B."""
    trainable = layer.lora_A[adapter].weight.requires_grad
    layer.lora_A[adapter] = AnchoredA(A, lr_ratio).requires_grad_(trainable)
    layer.lora_B[adapter] = AnchoredB(B, lr_ratio).requires_grad_(trainable)


def lora_layer(model: PeftModel, name: str) -> LoraLayer:
    """The LoRA layer that PEFT put around the module of that name."""
    return cast(LoraLayer, model.get_base_model().get_submodule(name))


def factor_modules(model: nn.Module, adapter: str) -> dict[str, tuple[Any, Any]]:
    """(lora_A, lora_B) modules of the adapter by the name of the wrapped module."""
    return {
        name: (layer.lora_A[adapter], layer.lora_B[adapter])
        for name, layer in unwrapped(model).named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }


def anchors(model: PeftModel, adapter: str) -> dict[str, AnchoredA]:
    """The adapter's anchored lora_A modules under the keys that their anchors are saved by."""
    return {
        f"{name}.A": A
        for name, (A, _) in factor_modules(model, adapter).items()
        if isinstance(A, AnchoredA)
    }


def _stock_rank(start: Start, config: AILoRAConfig) -> int:
    return start.rank * 2 if config.base == "anchored" and start.spectral else start.rank


def _plain(alpha: float) -> int | float:
    """An integer where it is one, as PEFT's own configs have it; rounding noise removed."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _pattern(model: nn.Module, values: dict[str, Any], common: Any) -> dict[str, Any]:
    special: dict[Any, set[str]] = {}
    for name, value in values.items():
        if value != common:
            special.setdefault(value, set()).add(name)
    return {name: value for value, names in special.items() for name in _shortest(model, names)}


def _shortest(model: nn.Module, names: Collection[str]) -> list[str]:
    """Last parts of the names ("query") where these select just those modules, else full names."""
    last = {name.rpartition(".")[2] for name in names}
    every = (name for name, _ in unwrapped(model).named_modules())
    selected = {name for name in every if name.rpartition(".")[2] in last}
    return sorted(last if selected == set(names) else names)
