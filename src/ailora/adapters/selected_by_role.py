"""The layers of a config's roles, found by the model's structure, where it names no modules."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from ailora.adapters import peft_insides
from ailora.adapters.config import AILoRAConfig
from ailora.adapters.left_out import (
    say_experts_are_left_out,
    say_the_parts,
    without_unfit,
)
from ailora.errors import UserError
from ailora.roles import ROLE_NAMES, Projection, RoleName, assign_roles, find_projections
from ailora.roles.architectures import matches
from ailora.roles.find import in_parts
from ailora.roles.projection import starred
from ailora.roles.walk import Place, walk


def select_by_role(
    model: nn.Module,
    config: AILoRAConfig,
    by_hand: dict[RoleName, Sequence[str]],
    of_experts: Collection[str],
) -> list[Projection]:
    """The layers of the roles; none need play those that ``target_parameters`` has for experts.

    Raises:
        UserError: as `ailora.roles.find_projections`; other fields of the config leave nothing.
    """
    if not config.named_roles and config.target_parameters:
        return []
    named = list(config.named_roles)
    layers = config.layers_to_transform
    indices = None if layers is None else [layers] if isinstance(layers, int) else list(layers)
    places = in_parts(model, walk(model), config.parts)
    say_the_parts(model, config)
    needed = [role for role in named if role in by_hand or role not in of_experts]
    found: list[Projection] = []
    if needed and any(place.part != "projector" for place in places):
        found = find_projections(model, needed, modules=by_hand, layers=indices, parts=config.parts)
    if of_experts:
        found = _with_dense(model, found, places, [role for role in named if role not in needed])
    found = _with_the_rest(model, found, places, config, indices)
    kept = [p for p in found if peft_insides.keeps(config, p.name)]
    say_experts_are_left_out(model, config, of_experts)
    kept = without_unfit(model, config, kept)
    if not kept and not of_experts:
        raise UserError(
            "exclude_modules, modules_to_save and layers_pattern leave nothing of the roles "
            f"{', '.join(map(repr, config.roles))} to adapt"
        )
    _check_heads(config, found, kept)
    return kept


def _with_dense(
    model: nn.Module, found: list[Projection], places: Sequence[Place], roles: Sequence[RoleName]
) -> list[Projection]:
    """The dense blocks' layers of these roles as well, in model order."""
    names = [place.name for place in places]
    more = [p for p in assign_roles(model, names, roles) if p.role in roles] if roles else []
    order = {place.name: index for index, place in enumerate(walk(model))}
    return sorted([*found, *more], key=lambda p: order[p.name])


def _with_the_rest(
    model: nn.Module,
    found: list[Projection],
    places: Sequence[Place],
    config: AILoRAConfig,
    layers: Sequence[int] | None,
) -> list[Projection]:
    """The roles' own, and as ``"*"``, in the model's order, what else the config asks for.

    With ``"*"`` named these are all other known roles; where a projector is, its linear layers.

    Raises:
        UserError: ``"*"`` is named, and the model has none, or none in one of the layers.
    """
    named = list(config.named_roles)
    rest = [role for role in ROLE_NAMES if role not in named] if "*" in config.roles else []
    names = [place.name for place in places]
    others: list[Projection] = []
    if rest:
        others = [p for p in assign_roles(model, names, rest, strict=False) if p.role != "*"]
    if config.parts is not None:
        projector = [place.name for place in places if place.part == "projector"]
        others += assign_roles(model, projector, named, strict=False)
    if rest and not found and not others:
        raise UserError(
            f"this {type(model).__name__} has no attention or feed-forward block that is known: "
            "name the modules in target_modules"
        )
    taken = {p.name for p in found if p.rows is None}
    whole = [*found, *(starred(p) for p in others if p.name not in taken)]
    if rest and layers is not None:
        missing = set(layers) - {p.layer for p in whole}
        if missing:
            raise UserError(
                f"layers_to_transform has {min(missing)}, where this {type(model).__name__} has "
                "nothing to adapt: layers are counted from 0"
            )
        whole = [p for p in whole if p.layer in layers]
    order = {place.name: index for index, place in enumerate(walk(model))}
    return sorted(whole, key=lambda p: order[p.name])


def _check_heads(
    config: AILoRAConfig, found: Sequence[Projection], kept: Sequence[Projection]
) -> None:
    """Raise a UserError if modules named by hand lie in a module that is trained in full."""
    left_out = {p.name for p in found} - {p.name for p in kept}
    for name in sorted(left_out):
        for role in config.named_roles.values():
            inside = [w for w in config.modules_to_save or () if f".{w}." in f".{name}."]
            if inside and any(matches(name, entry) for entry in role.modules or ()):
                raise UserError(
                    f"modules_to_save has {inside[0]!r}, which {name} is a part of; a module is "
                    "either trained in full or adapted"
                )
