"""Going through a model's modules, and names for them that hold whatever wraps the model.

The names depend neither on PEFT, which wraps a model and its layers, nor on the model's head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import nn

from ailora.roles.parts import PartName, Scope, scope_of
from ailora.roles.projection import AttentionKind, Projection, RoleKey, Stack
from ailora.roles.uncalled import uncalled


@dataclass(frozen=True, kw_only=True)
class Place:
    """A module at one of its dotted paths.

    Attributes:
        name: The path, without what PEFT adds to it.
        module: The module; of a tuner layer, the layer inside.
        first: Whether this is the first path to the module: shared ones have several.
        part: The part of the model that it belongs to; None for one that has no name.
        default: Whether that part is adapted where none is named.
        called: Whether the module around it calls it, as an adapter needs; not so where that reads
            its weight alone.
    """

    name: str
    module: nn.Module = field(repr=False)
    first: bool
    part: PartName | None
    default: bool
    called: bool = True


def walk(model: nn.Module) -> list[Place]:
    """Every module below ``model`` at each of its paths, parents first.

    PEFT leaves no trace in it: a tuner layer counts as its base layer, and what PEFT adds is left
    out.
    """
    root = unwrapped(model)
    places = list(_below(root, "", scope_of(root, "", Scope()), (id(root),), set()))
    if any(place.part in ("vision", "audio") for place in places):
        return places
    return [  # without a tower, what is called a projector projects nothing into the language part
        replace(place, part="language", default=True) if place.part == "projector" else place
        for place in places
    ]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that a ``PeftModel`` wraps; any other model as it is."""
    if getattr(model, "peft_config", None) == {} and hasattr(model, "get_base_model"):
        tuner: Any = model.base_model  # all its adapters were deleted, by which PEFT finds the base
        return tuner.model  # type: ignore[no-any-return]
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model


def model_type(model: nn.Module) -> str:
    """``config.model_type``, or the class name where there is none."""
    found = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) and found else type(model).__name__


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a projection stands in its model: the first columns of a table row about it.

    Attributes:
        name: Its dotted path below the model's body (without ``bert.``, ``model.`` and the like),
            so that models with different heads agree; in a fused layer with the role at the end.
        role: One of `ailora.roles.ROLE_NAMES`.
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
    """Where a projection stands in its model."""
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


def _below(
    module: nn.Module, path: str, scope: Scope, above: tuple[int, ...], seen: set[int]
) -> Iterator[Place]:
    read = uncalled(module)
    # Not named_children(), which leaves out the second name of a shared module.
    for child_name, wrapped in module._modules.items():
        child = None if wrapped is None else _without_tuner(wrapped)
        if child is None or id(child) in above:
            continue
        name = f"{path}.{child_name}" if path else child_name
        inner = scope_of(child, child_name, scope)
        first = id(child) not in seen
        yield Place(
            name=name,
            module=child,
            first=first,
            part=inner.part,
            default=inner.default,
            called=child_name not in read,
        )
        seen.add(id(child))
        yield from _below(child, name, inner, (*above, id(child)), seen)


def _without_tuner(module: nn.Module) -> nn.Module:
    # PEFT keeps the original under base_layer (tuners, nested for several) or original_module
    # (modules_to_save).
    for attribute in ("base_layer", "original_module"):
        inner = getattr(module, attribute, None)
        if isinstance(inner, nn.Module):
            return _without_tuner(inner)
    return module
