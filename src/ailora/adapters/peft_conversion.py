"""What PEFT's conversion of names for transformers 5 makes of an adapter, wrapped and loaded.

transformers 5 has renamed layers and fused experts of many architectures. PEFT takes the older
names in a config and in a file for the newer ones, also where modules of the older names are there
as well, and then adapts others or loses factors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from peft import LoraConfig
from torch import nn

from ailora.adapters.record import PREFIX


def taken_for_experts(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the modules that PEFT would not adapt by their names, but experts in their place.

    Where transformers 5 has fused the experts of a mixture into one parameter, PEFT takes the names
    that they had (``gate_proj``, ``w1``) for it, when it wraps the model and when it loads an
    adapter, although modules of these names are there too: shared experts, dense layers.
    """
    names = list(names)
    last = {name.rpartition(".")[2] for name in names}
    taken = {name for name in last if not stays(model, [name])}
    return [name for name in names if name.rpartition(".")[2] in taken]


def stays(
    model: nn.Module, modules: Collection[str] | str, parameters: Collection[str] | None = None
) -> bool:
    """Whether targets select the same after PEFT's conversion of a config for a model."""
    try:
        from peft.utils.transformers_weight_conversion import (  # noqa: PLC0415 (transformers 5)
            convert_peft_config_for_transformers,
        )
    except ImportError:
        return True
    fields = {"target_modules": modules, "target_parameters": parameters}
    config, converted = LoraConfig(**fields), LoraConfig(**fields)
    try:
        convert_peft_config_for_transformers(converted, model=model, conversions=None)
    except ValueError:  # it lacks a name that belongs to the same experts
        return False
    return all(
        set(getattr(converted, field) or ()) == set(getattr(config, field) or ())
        for field in fields
    )


def lost_on_loading(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of the modules whose factors PEFT would give another name when it loads them."""
    try:
        from peft.utils.transformers_weight_conversion import (  # noqa: PLC0415 (transformers 5)
            convert_peft_adapter_state_dict_for_transformers,
        )
    except ImportError:
        return []
    keys = {f"{PREFIX}{name}.lora_{factor}.weight": name for name in names for factor in "AB"}
    saved = {key: torch.zeros(1, 1) for key in keys}
    converted = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), saved)
    lost = {name for key, name in keys.items() if key not in converted}
    return [name for name in names if name in lost]
