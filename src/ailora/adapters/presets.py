"""The paper's five starts as configs: they differ in their roles alone.

Each takes the rank and any other field of `ailora.AILoRAConfig`::

    ailora.presets.milora(r=16, task_type="CAUSAL_LM")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ailora.adapters.config import AILoRAConfig, Role
from ailora.errors import UserError
from ailora.roles import RoleKey

__all__ = ["ailora", "lora", "milora", "pissa", "reailora"]


def ailora(r: int = 8, **fields: Any) -> AILoRAConfig:
    """AILoRA (section 3): q from its principal part, v from its minor part at twice the rate."""
    return AILoRAConfig(r=r, **fields)


def reailora(r: int = 8, **fields: Any) -> AILoRAConfig:
    """AILoRA reversed (section 5.4): q minor, v principal.

    The paper does not say whether v keeps its doubled rate here; it does, so that the two
    differ in the parts alone.
    """
    roles: dict[RoleKey, Role] = {
        "q": Role(init="minor"),
        "v": Role(init="principal", lr_ratio=2.0),
    }
    return _preset(r, roles, fields)


def pissa(r: int = 8, *, published: bool = False, **fields: Any) -> AILoRAConfig:
    """PiSSA (Meng et al. 2024) on q and v: principal parts, at one rate.

    Args:
        r: Rank.
        published: On the layers of PiSSA's own paper instead: q, k, v, o, gate, up, down (gate
            where there is one). With ``target_modules="all-linear"`` every other layer starts so
            as well.
        fields: Further fields of `ailora.AILoRAConfig`.

    Raises:
        UserError: published=True beside roles or modules of your own.
    """
    if published:
        return _published(r, "principal", ("q", "k", "v", "o", "up", "down", "*"), fields)
    return _everywhere(r, "principal", fields)


def milora(r: int = 8, *, published: bool = False, **fields: Any) -> AILoRAConfig:
    """MiLoRA (Wang et al. 2024) on q and v: minor parts, at one rate.

    Args:
        r: Rank.
        published: On the layers of MiLoRA's own paper instead: q, k, v, up, down. With
            ``target_modules="all-linear"`` every other layer starts so as well.
        fields: Further fields of `ailora.AILoRAConfig`.

    Raises:
        UserError: published=True beside roles or modules of your own.
    """
    if published:
        return _published(r, "minor", ("q", "k", "v", "up", "down"), fields)
    return _everywhere(r, "minor", fields)


def lora(r: int = 8, **fields: Any) -> AILoRAConfig:
    """LoRA (Hu et al. 2021): q and v from a Gaussian A and a zero B, at one rate."""
    return _everywhere(r, "gaussian", fields)


def _everywhere(r: int, init: str, fields: dict[str, Any]) -> AILoRAConfig:
    role = Role(init=init)
    roles: dict[RoleKey, Role] = {"q": role, "v": role}
    if fields.get("target_modules") is not None:
        roles["*"] = role
    return _preset(r, roles, fields)


def _published(r: int, init: str, roles: Sequence[RoleKey], fields: dict[str, Any]) -> AILoRAConfig:
    """Without ``target_modules``, ``"*"`` is every role that a model has beside those named."""
    for name in ("roles", "target_modules"):
        if fields.get(name) is not None:
            raise UserError(f"published=True says which layers: leave out {name}={fields[name]!r}")
    return _preset(r, {role: Role(init=init) for role in roles}, fields)


def _preset(r: int, roles: Mapping[RoleKey, Role], fields: dict[str, Any]) -> AILoRAConfig:
    return AILoRAConfig(**{"r": r, "roles": roles, **fields})
