"""Where in a model a projection stands, in names that agree whatever head the model has."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from ailora.roles.projection import AttentionKind, Projection, RoleKey, Stack
from ailora.roles.walk import unwrapped


@dataclass(frozen=True, kw_only=True)
class Position:
    """Which projection a row of a table is about.

    Attributes:
        name: Its dotted path below the model's body (without ``bert.``, ``model.`` and the like),
            so that models with different heads agree; in a fused layer with the role at the end.
        role: ``"q"``, ``"k"``, ``"v"`` or ``"o"``.
        layer: Index of the layer in its stack; None where one module serves every layer.
        stack: ``"encoder"``, ``"decoder"`` or ``""``.
        attention: ``"self"`` or ``"cross"``.
    """

    name: str
    role: RoleKey
    layer: int | None
    stack: Stack
    attention: AttentionKind


def position_of(model: nn.Module, projection: Projection) -> Position:
    """Where a projection is."""
    return Position(
        name=body_key(model, projection),
        role=projection.role,
        layer=projection.layer,
        stack=projection.stack,
        attention=projection.attention,
    )


def spread(place: Position) -> dict[str, Any]:
    """The fields of a `Position`, for a row that has more of them."""
    return {field.name: getattr(place, field.name) for field in fields(Position)}


def body_key(model: nn.Module, projection: Projection) -> str:
    """`Projection.key` below the model's body, whatever head is on it."""
    return body_name(model, projection.key)


def body_name(model: nn.Module, name: str) -> str:
    """A dotted name without the prefix that the body has in a model with a head."""
    prefix = getattr(unwrapped(model), "base_model_prefix", "")
    return name.removeprefix(f"{prefix}.") if prefix else name
