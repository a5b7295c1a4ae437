"""PEFT's hot-swap writes into ``weight``, which anchored factors make anew: it is refused.

Nothing in PEFT asks a layer or a config before it writes, so the two functions that every
hot-swap goes through ask here first. Adapters that stock PEFT loaded swap as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from peft.utils import hotswap
from torch import nn

from ailora.adapters.factors.anchored import Factor
from ailora.errors import UserError

_WRITERS = ("hotswap_adapter_from_state_dict", "_convert_scalings_to_tensor")


def guard_hotswap() -> None:
    """Let PEFT's hot-swap refuse models with anchored factors; once a process."""
    for name in _WRITERS:
        function = getattr(hotswap, name)
        if not hasattr(function, "__wrapped__"):
            setattr(hotswap, name, _guarded(function))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def guarded(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(module, Factor) for module in model.modules()):
            raise UserError(
                "hot-swap cannot write into anchored factors; load this model's adapter with "
                "peft.PeftModel.from_pretrained, or add the other with ailora.load_adapter(model, "
                "dir, name) and model.set_adapter(name)"
            )
        return function(model, *args, **kwargs)

    return guarded
