"""Which modules of a model are its query, key, value and output projections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from ailora.errors import UserError
from ailora.roles import messages
from ailora.roles.arguments import check_layers, check_modules, check_roles
from ailora.roles.attention import Part, Reading, read
from ailora.roles.naming import attention_of, layer_of, looks_fused, matches, stack_of
from ailora.roles.projection import ROLE_NAMES, Projection, RoleName
from ailora.roles.walk import Place, unwrapped, walk
from ailora.roles.weights import is_projection


def find_projections(
    model: nn.Module,
    roles: Collection[RoleName] = ROLE_NAMES,
    *,
    modules: Mapping[RoleName, Sequence[str]] | None = None,
    layers: Sequence[int] | None = None,
) -> list[Projection]:
    """Finds the attention projections of ``model`` that play one of ``roles``.

    Attention is recognised by how its parts are named and fit one another, so architectures that
    are named nowhere here are found too; where one weight holds several roles, the layout of its
    rows is known by class. What cannot be read for certain is refused: name it by hand. Any head
    class will do, and so will a PEFT model, whose projections appear under the names they have in
    the model it wraps, and a model on the meta device. Parts for images or sound are left out, as
    are layers of linear attention, which have no q, k and v in the paper's sense.

    Args:
        model: A transformers model, or a module that contains one.
        roles: The roles to look for.
        modules: For some of the roles, names that replace the built-in ones. A name stands for
            every ``nn.Linear`` or ``Conv1D`` whose path equals it or ends with it after a dot, as
            in PEFT's ``target_modules``, and for all its rows.
        layers: Keep these layers only, counted from 0 in each stack (PEFT's
            ``layers_to_transform``); None keeps all.

    Returns:
        The projections in the model's own order, each module once; a fused layer once a role.

    Raises:
        UserError: The model's attention is unknown, cannot be read for certain or has no
            projection for a role; a name in ``modules`` fits no linear layer, or fits one that
            plays another role or holds several; ``layers`` has an index that a role does not
            have; an argument makes no sense in itself.
    """
    check_roles(roles)
    asked = _Asked(model, roles, modules, strict=True)
    found = [asked.projection(part) for place in asked.linear for part in asked.parts(place)]
    for role in roles:
        if not any(projection.role == role for projection in found):
            message = messages.no_projection(role, unwrapped(model), asked.places, asked.reading)
            raise UserError(message)
    unusable = _unusable(asked.reading, asked.built_in, layers)
    if unusable:
        raise UserError(messages.partly_usable(unusable))
    return found if layers is None else _in_layers(found, check_layers(layers))


def assign_roles(
    model: nn.Module,
    names: Collection[str],
    roles: Collection[RoleName],
    *,
    modules: Mapping[RoleName, Sequence[str]] | None = None,
    strict: bool = True,
) -> list[Projection]:
    """The roles that chosen linear layers of ``model`` play, for a choice made by their names.

    Args:
        model: As in `find_projections`.
        names: Dotted paths of the layers, such as PEFT's ``target_modules`` selects.
        roles: The roles that matter; a layer that plays none of them has the role ``"*"``.
        modules: As in `find_projections`.
        strict: Refuse a model whose attention cannot be read for certain. Without it, the layers
            of such attention have the role ``"*"``.

    Returns:
        The projections in the model's own order, each module once; a fused layer once a role. A
        name that is no ``nn.Linear`` or ``Conv1D`` is left out.

    Raises:
        UserError: As `find_projections` for names by hand and for attention that cannot be read.
    """
    asked, wanted = _Asked(model, roles, modules, strict=strict), set(names)
    return [
        asked.projection(part)
        for place in asked.linear
        if place.name in wanted
        for part in (asked.parts(place) or [Part(role="*", place=place)])
    ]


class _Asked:
    """A model read for some roles, of which some are named by hand."""

    def __init__(
        self,
        model: nn.Module,
        roles: Collection[RoleName],
        modules: Mapping[RoleName, Sequence[str]] | None,
        *,
        strict: bool,
    ) -> None:
        self.by_hand = check_modules(modules, roles)
        self.built_in = [role for role in roles if role not in self.by_hand]
        self.places = walk(model)
        self.reading = read(self.places)
        for role, entries in self.by_hand.items():
            for entry in entries:
                _check_entry(role, entry, self.places, self.reading)
        if strict and self.built_in and self.reading.problems:
            problem = self.reading.problems[0]
            raise UserError(messages.unreadable(unwrapped(model), problem, self.built_in[0]))
        self._layers = _layers_by_module(self.places)

    @property
    def linear(self) -> list[Place]:
        """Its linear layers, each module once."""
        return [place for place in self.places if place.first and is_projection(place.module)]

    def parts(self, place: Place) -> list[Part]:
        """The roles of one module, by hand or as read; several only in a fused layer."""
        kind = attention_of(place.name)
        named = [
            Part(role=role, place=place, attention=kind)
            for role, entries in self.by_hand.items()
            if any(matches(place.name, entry) for entry in entries)
        ]
        known = self.reading.parts.get(place.name, ())
        parts = [*named, *(part for part in known if part.role in self.built_in)]
        if len(parts) > 1 and any(part.rows is None for part in parts):
            raise UserError(messages.two_roles(place.name, [part.role for part in parts]))
        return parts

    def projection(self, part: Part) -> Projection:
        """The part as others know it."""
        return Projection(
            name=part.place.name,
            role=part.role,
            layer=self._layers[id(part.place.module)],
            attention=part.attention,
            stack=stack_of(part.place.name),
            rows=part.rows,
            module=part.place.module,
        )


def _unusable(
    reading: Reading, roles: Collection[RoleName], layers: Collection[int] | None
) -> list[Place]:
    """Layers that play a role, as their names say, and are no linear layers that can be adapted."""
    return [
        part.place
        for parts in reading.parts.values()
        for part in parts
        if part.role in roles and part.place.first and not is_projection(part.place.module)
        if layers is None or layer_of(part.place.name) in layers
    ]


def _layers_by_module(places: Sequence[Place]) -> dict[int, int | None]:
    """By ``id`` of the module, its layer; None where several layers share it."""
    found: dict[int, set[int | None]] = {}
    for place in places:
        found.setdefault(id(place.module), set()).add(layer_of(place.name))
    return {key: layers.pop() if len(layers) == 1 else None for key, layers in found.items()}


def _check_entry(role: RoleName, entry: str, places: Sequence[Place], reading: Reading) -> None:
    fitting = [place for place in places if matches(place.name, entry)]
    if not fitting:
        raise UserError(messages.unmatched(role, entry, places))
    usable = [place for place in fitting if is_projection(place.module)]
    if not usable:
        raise UserError(messages.not_linear(role, entry, fitting[0]))
    for place in usable:
        known = [part for part in reading.parts.get(place.name, ()) if part.rows is not None]
        if known or looks_fused(place.name):
            raise UserError(messages.fused(role, entry, place, [part.role for part in known]))


def _in_layers(found: Sequence[Projection], layers: Collection[int]) -> list[Projection]:
    for role in dict.fromkeys(projection.role for projection in found):
        present = {p.layer for p in found if p.role == role and p.layer is not None}
        for layer in layers:
            if layer not in present:
                raise UserError(messages.no_layer(role, layer, present))
    return [projection for projection in found if projection.layer in layers]
