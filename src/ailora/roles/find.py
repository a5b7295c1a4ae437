"""Which modules of a model are its query, key, value and output projections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from ailora.errors import UserError
from ailora.roles import messages
from ailora.roles.arguments import check_layers, check_modules, check_roles
from ailora.roles.naming import attention_of, layer_of, matches, stack_of
from ailora.roles.projection import ROLE_NAMES, AttentionKind, Projection, RoleName
from ailora.roles.walk import Place, is_linear, unwrapped, walk


def find_projections(
    model: nn.Module,
    roles: Collection[RoleName] = ROLE_NAMES,
    *,
    modules: Mapping[RoleName, Sequence[str]] | None = None,
    layers: Sequence[int] | None = None,
) -> list[Projection]:
    """Finds the attention projections of ``model`` that play one of ``roles``.

    The model's ``config.model_type`` decides how they are named; for other architectures, or to
    choose differently, name them by hand. Any head class will do, and so will a PEFT model, whose
    projections appear under the names they have in the model it wraps.

    Args:
        model: A transformers model, or a module that contains one.
        roles: The roles to look for.
        modules: For some of the roles, names that replace the built-in ones. A name stands for
            every ``nn.Linear`` whose path equals it or ends with it after a dot, as in PEFT's
            ``target_modules``.
        layers: Keep these layers only, counted from 0 in each stack (PEFT's
            ``layers_to_transform``); None keeps all.

    Returns:
        The projections in the model's own order, each module once.

    Raises:
        UserError: The architecture is unknown or has no projection for a role; a name in
            ``modules`` fits no linear layer, or fits one that plays another role; ``layers`` has
            an index that a role does not have; an argument makes no sense in itself.
    """
    check_roles(roles)
    by_hand = check_modules(modules, roles)
    places = walk(model)
    for role, entries in by_hand.items():
        for entry in entries:
            _check_entry(role, entry, places)
    found = [
        projection
        for place in places
        if is_linear(place.module) and (projection := _projection(place, roles, by_hand))
    ]
    for role in roles:
        if not any(projection.role == role for projection in found):
            raise UserError(messages.no_projection(role, unwrapped(model), places))
    return found if layers is None else _in_layers(found, check_layers(layers))


def _projection(
    place: Place, roles: Collection[RoleName], by_hand: Mapping[RoleName, Sequence[str]]
) -> Projection | None:
    plays = _roles_of(place, roles, by_hand)
    if len(plays) > 1:
        raise UserError(messages.two_roles(place.name, list(plays)))
    if not plays or not is_linear(place.module):
        return None
    ((role, attention),) = plays.items()
    shared = place.naming is not None and place.naming.shared
    return Projection(
        name=place.name,
        role=role,
        layer=None if shared else layer_of(place.name),
        attention=attention,
        stack=stack_of(place.name),
        module=place.module,
    )


def _roles_of(
    place: Place, roles: Collection[RoleName], by_hand: Mapping[RoleName, Sequence[str]]
) -> dict[RoleName, AttentionKind]:
    plays: dict[RoleName, AttentionKind] = {
        role: attention_of(place.name)
        for role, entries in by_hand.items()
        if any(matches(place.name, entry) for entry in entries)
    }
    if place.known is not None:
        role, attention = place.known
        if role in roles and role not in by_hand:
            plays[role] = attention
    return plays


def _check_entry(role: RoleName, entry: str, places: Sequence[Place]) -> None:
    fitting = [place for place in places if matches(place.name, entry)]
    if not fitting:
        raise UserError(messages.unmatched(role, entry, places))
    if not any(is_linear(place.module) for place in fitting):
        raise UserError(messages.not_linear(role, entry, fitting[0]))


def _in_layers(found: Sequence[Projection], layers: Collection[int]) -> list[Projection]:
    for role in dict.fromkeys(projection.role for projection in found):
        present = {p.layer for p in found if p.role == role and p.layer is not None}
        for layer in layers:
            if layer not in present:
                raise UserError(messages.no_layer(role, layer, present))
    return [projection for projection in found if projection.layer in layers]
