"""One scale in the files, each module its own in memory.

Rates that are baked in, and a role's own ``lora_alpha``, give modules different scales. Servers
read one: vLLM and llama.cpp know no ``alpha_pattern`` and would take V's update, say, four times
too small without a word. So B is saved as (s / s_file) B, and divided by that when it is read
again. Powers of two, as baked ratios of 2 have them, change no bit of it either way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ailora.adapters import peft_insides
from ailora.adapters.factors import Factor
from ailora.adapters.record import PREFIX, StartedConfig
from ailora.roles import unwrapped


@contextmanager
def in_one_scale(model: Any, options: dict[str, Any]) -> Iterator[None]:
    """Inside, the configs of a model are those of the files, and so is ``state_dict``.

    Args:
        model: Whose ``save_pretrained`` is about to be called.
        options: Its keyword arguments; ``state_dict`` is put in place.
    """
    several = {
        name: config
        for name, config in model.peft_config.items()
        if isinstance(config, StartedConfig) and config.record is not None and config.ratios()
    }
    live: dict[str, StartedConfig] = {}
    if several:
        state = options.get("state_dict")
        state = dict(model.state_dict() if state is None else state)
        for name, config in several.items():
            scaled = _factors(state, name, config.ratios())
            if len(scaled) == len(config.ratios()):  # else they are not in it, or not by name
                live[name] = config
                state |= scaled
        options["state_dict"] = state
    model.peft_config.update({name: config.for_files() for name, config in live.items()})
    try:
        yield
    finally:
        model.peft_config.update(live)


def _factors(
    state: Mapping[str, Tensor], adapter: str, ratios: Mapping[str, float]
) -> dict[str, Tensor]:
    """The B of these layers as the files have it, by their keys."""
    ending, found = f".lora_B.{adapter}.weight", {}
    for key, B in state.items():
        ratio = ratios.get(key.removesuffix(ending).removeprefix(PREFIX))
        if ratio is not None and key.endswith(ending):
            exact = math.frexp(ratio)[0] == 0.5
            wide = B if exact else B.to(torch.promote_types(B.dtype, torch.float32))
            found[key] = wide * ratio
    return found


@contextmanager
def reading(model: nn.Module, adapter: str, ratios: Mapping[str, float]) -> Iterator[None]:
    """Inside, what is loaded into an adapter's B is divided by these ratios, by layer."""
    layers = peft_insides.lora_layers(unwrapped(model), adapter)
    factors = {name: layer.lora_B[adapter] for name, layer in layers.items()}
    factors = {name: one for name, one in factors.items() if isinstance(one, Factor)}
    for name, factor in factors.items():
        factor.incoming = ratios.get(name, 1.0)
    try:
        yield
    finally:
        for factor in factors.values():
            factor.incoming = None


__all__ = ["in_one_scale", "reading"]
