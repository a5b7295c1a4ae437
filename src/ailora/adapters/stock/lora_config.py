"""The stock configuration of an adapter: every field that PEFT saves is PEFT's own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.files.saved import StartedLoraConfig
from ailora.adapters.starts.make import Start
from ailora.roles import unwrapped


def lora_config(
    model: nn.Module, config: AILoRAConfig, starts: Sequence[Start]
) -> StartedLoraConfig:
    """The stock configuration for these starts.

    ``init_lora_weights`` stays True: a saved "pissa" would run its SVD again at load and
    overwrite the base. Spectral anchored factors have twice the rank, and an alpha that leaves
    PEFT's scale as it is; a fused layer has the sum of its roles' ranks.
    """
    layers = by_layer(starts)
    ranks = {
        name: sum(config.stock_rank_of(start.role) for start in roles) for name, roles in layers
    }
    alphas = {
        name: _plain(roles[0].scaling * (math.sqrt(rank) if config.use_rslora else rank))
        for (name, roles), rank in zip(layers, ranks.values(), strict=True)
    }
    common_rank = Counter(ranks.values()).most_common(1)[0][0]
    common_alpha = Counter(alphas.values()).most_common(1)[0][0]
    return StartedLoraConfig(
        r=common_rank,
        lora_alpha=cast(int, common_alpha),
        lora_dropout=config.dropout,
        target_modules=_shortest(model, set(ranks)),
        rank_pattern=_pattern(model, ranks, common_rank),
        alpha_pattern=_pattern(model, alphas, common_alpha),
        fan_in_fan_out=all(isinstance(start.projection.module, Conv1D) for start in starts),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        task_type=config.task_type,
        modules_to_save=list(config.modules_to_save) if config.modules_to_save else None,
        init_lora_weights=True,
    )


def by_layer(starts: Sequence[Start]) -> list[tuple[str, list[Start]]]:
    """The starts of each layer, which are several where the layer is fused."""
    layers: dict[str, list[Start]] = {}
    for start in starts:
        layers.setdefault(start.name, []).append(start)
    return list(layers.items())


def _plain(alpha: float) -> int | float:
    """An integer where it is one, as PEFT's own configs have it; rounding noise removed."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _pattern(model: nn.Module, values: Mapping[str, Any], common: Any) -> dict[str, Any]:
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
