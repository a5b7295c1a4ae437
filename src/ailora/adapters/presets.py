"""The paper's five starts as configs: they differ in their roles alone.

Each takes the rank and any other field of `ailora.AILoRAConfig`::

    ailora.presets.milora(r=16, task_type="CAUSAL_LM")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ailora.adapters.config import AILoRAConfig, Role
from ailora.roles import RoleName

__all__ = ["ailora", "lora", "milora", "pissa", "reailora"]


def ailora(r: int = 8, **fields: Any) -> AILoRAConfig:
    """AILoRA (section 3): q from its principal part, v from its minor part at twice the rate."""
    return AILoRAConfig(r=r, **fields)


def reailora(r: int = 8, **fields: Any) -> AILoRAConfig:
    """AILoRA reversed (section 5.4): q minor, v principal.

    The paper does not say whether v keeps its doubled rate here; it does, so that the two
    differ in the parts alone.
    """
    roles: dict[RoleName, Role] = {
        "q": Role(init="minor"),
        "v": Role(init="principal", lr_ratio=2.0),
    }
    return _preset(r, roles, fields)


def pissa(r: int = 8, **fields: Any) -> AILoRAConfig:
    """PiSSA (Meng et al. 2024): q and v from their principal parts, at one rate."""
    return _preset(r, {"q": Role(init="principal"), "v": Role(init="principal")}, fields)


def milora(r: int = 8, **fields: Any) -> AILoRAConfig:
    """MiLoRA (Wang et al. 2024): q and v from their minor parts, at one rate."""
    return _preset(r, {"q": Role(init="minor"), "v": Role(init="minor")}, fields)


def lora(r: int = 8, **fields: Any) -> AILoRAConfig:
    """LoRA (Hu et al. 2021): q and v from a Gaussian A and a zero B, at one rate."""
    return _preset(r, {"q": Role(init="gaussian"), "v": Role(init="gaussian")}, fields)


def _preset(r: int, roles: Mapping[RoleName, Role], fields: dict[str, Any]) -> AILoRAConfig:
    return AILoRAConfig(**{"r": r, "roles": roles, **fields})
