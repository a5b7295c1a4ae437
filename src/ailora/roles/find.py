"""Finding the projections of a model's attention and feed-forward blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn

from ailora.errors import UserError
from ailora.roles import feedforward, messages
from ailora.roles.architectures import attention_of, layer_of, looks_fused, matches, stack_of
from ailora.roles.attention import read_attention
from ailora.roles.parts import PART_NAMES, PartName
from ailora.roles.projection import (
    ATTENTION_ROLES,
    ROLE_NAMES,
    Projection,
    RoleName,
    is_projection,
)
from ailora.roles.reading import Part, Reading
from ailora.roles.walk import Place, unwrapped, walk

_KNOWN = ", ".join(repr(role) for role in ROLE_NAMES)


def find_projections(
    model: nn.Module,
    roles: Collection[RoleName] = ATTENTION_ROLES,
    *,
    modules: Mapping[RoleName, Sequence[str]] | None = None,
    layers: Sequence[int] | None = None,
    parts: Collection[PartName] | None = None,
) -> list[Projection]:
    """Finds the projections of ``model`` that play one of ``roles``.

    Attention (q, k, v, o) and dense feed-forward blocks (gate, up, down) are recognised by how
    their parts are named and fit one another, so architectures that are named nowhere here are
    found too; where one weight holds several roles, the layout of its rows is known by class. What
    cannot be read for certain is refused: name it by hand. Any head class will do, and so will a
    PEFT model, whose projections appear under the names they have in the model it wraps, and a
    model on the meta device. Layers of linear attention, which have no q, k and v in the paper's
    sense, are left out, and so are routers and experts.

    A model of one kind of input (LLaMA, ViT, Whisper) is read whole, and so is one of two halves
    side by side (CLIP, SigLIP); of other models of several kinds (Qwen-VL, LLaVA) the language
    part alone, unless ``parts`` names others.

    Args:
        model: A transformers model, or a module that contains one.
        roles: The roles to look for; those of attention without.
        modules: For some of the roles, names that replace the built-in ones. A name stands for
            every ``nn.Linear`` or ``Conv1D`` whose path equals it or ends with it after a dot, as
            in PEFT's ``target_modules``, and for all its rows.
        layers: Keep these layers only, counted from 0 in each stack (PEFT's
            ``layers_to_transform``); None keeps all.
        parts: Parts of the model to look in: ``"language"``, ``"vision"``, ``"audio"``. None is as
            above. A ``"projector"``, between a tower and the language part, has no roles.

    Returns:
        The projections in the model's own order: one per module, in a fused layer one per role.

    Raises:
        UserError: The model lacks a part that is named; the blocks that a role belongs to are
            unknown, cannot be read for certain or have no projection for it; a name in ``modules``
            fits no linear layer, or fits one that plays another role or holds several; ``layers``
            has an index that a role does not have; an argument makes no sense in itself.
    """
    _check_roles(roles)
    search = _Search(model, roles, modules)
    places = {id(place): place for place in in_parts(model, search.places, parts)}
    search.refuse_unreadable(lambda block: id(block) in places)
    found = [
        search.projection(part)
        for place in search.linear
        for part in search.roles_of(place)
        if id(place) in places or (parts is None and part.role in search.by_hand)
    ]
    reading = search.reading.of(places.values())
    for role in roles:
        if not any(projection.role == role for projection in found):
            listed = list(places.values())
            raise UserError(messages.no_projection(role, unwrapped(model), listed, reading))
    unusable = _unusable(reading, search.built_in, layers)
    if unusable:
        raise UserError(messages.partly_usable(unusable))
    return found if layers is None else _in_layers(found, _check_layers(layers))


def assign_roles(
    model: nn.Module,
    names: Collection[str],
    roles: Collection[RoleName],
    *,
    modules: Mapping[RoleName, Sequence[str]] | None = None,
    strict: bool = True,
    experts: bool = False,
) -> list[Projection]:
    """The roles that chosen linear layers of ``model`` play, for a choice made by their names.

    Args:
        model: As in `find_projections`.
        names: Dotted paths of the layers, such as PEFT's ``target_modules`` selects.
        roles: The roles that matter; a layer that plays none of them has the role ``"*"``.
        modules: As in `find_projections`.
        strict: Refuse a model with blocks of the roles' kind that cannot be read for certain, in
            the parts that are adapted by default or around a chosen layer. Without it, the layers
            of such blocks have the role ``"*"``.
        experts: Whether gate, up and down of experts that are modules of their own have these
            roles, as in a dense block.

    Returns:
        The projections in the model's own order: one per module, in a fused layer one per role. A
        name that is no ``nn.Linear`` or ``Conv1D`` is left out.

    Raises:
        UserError: As `find_projections` for names by hand and for blocks that cannot be read.
    """
    search, wanted = _Search(model, roles, modules, experts=experts), set(names)
    if strict:
        search.refuse_unreadable(
            lambda block: block.default or any(n.startswith(f"{block.name}.") for n in wanted)
        )
    return [
        search.projection(part)
        for place in search.linear
        if place.name in wanted
        for part in (search.roles_of(place) or [Part(role="*", place=place)])
    ]


def in_parts(
    model: nn.Module, places: Sequence[Place], parts: Collection[PartName] | None
) -> list[Place]:
    """The places in some parts of a model; None are those that are adapted by default.

    Raises:
        UserError: The model has no such part.
    """
    if parts is None:
        return [place for place in places if place.default]
    there = {place.part for place in places}
    for part in parts:
        if part not in there:
            message = messages.no_part(
                part, unwrapped(model), [p for p in PART_NAMES if p in there]
            )
            raise UserError(message)
    return [place for place in places if place.part in parts]


class _Search:
    """A model read for some roles, of which some are named by hand."""

    def __init__(
        self,
        model: nn.Module,
        roles: Collection[RoleName],
        modules: Mapping[RoleName, Sequence[str]] | None,
        *,
        experts: bool = False,
    ) -> None:
        self.by_hand = _check_modules(modules, roles)
        self.built_in = [role for role in roles if role not in self.by_hand]
        self.places = walk(model)
        attention = read_attention(self.places)
        self.reading = attention.with_(
            feedforward.read_feed_forward(self.places, attention, experts=experts)
        )
        for role, entries in self.by_hand.items():
            for entry in entries:
                _check_entry(role, entry, self.places, self.reading)
        self._model = model
        self._layers = _layers_by_module(self.places)

    def refuse_unreadable(self, within: Callable[[Place], bool]) -> None:
        """Raise a UserError for a block there that cannot be read and may play one of the roles."""
        for problem in self.reading.problems:
            for role in self.built_in:
                if role in problem.roles and within(problem.place):
                    raise UserError(messages.unreadable(unwrapped(self._model), problem, role))

    @property
    def linear(self) -> list[Place]:
        """Its linear layers, each module once."""
        return [place for place in self.places if place.first and is_projection(place.module)]

    def roles_of(self, place: Place) -> list[Part]:
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
        """The projection that a part describes."""
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
    """The layer of each module, by the module's ``id``; None where several layers share it."""
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
        if known or looks_fused(place.name) or feedforward.looks_fused(place.name):
            raise UserError(messages.fused(role, entry, place, [part.role for part in known]))


def _in_layers(found: Sequence[Projection], layers: Collection[int]) -> list[Projection]:
    for role in dict.fromkeys(projection.role for projection in found):
        present = {p.layer for p in found if p.role == role and p.layer is not None}
        for layer in layers:
            if layer not in present:
                raise UserError(messages.no_layer(role, layer, present))
    return [projection for projection in found if projection.layer in layers]


def _check_roles(roles: Collection[RoleName]) -> None:
    """Raise a ``UserError`` unless ``roles`` has at least one role and nothing else."""
    if isinstance(roles, str) or not roles:
        raise UserError(f"roles={roles!r}: give a collection of at least one of {_KNOWN}")
    for role in roles:
        if role not in ROLE_NAMES:
            raise UserError(f"roles has {role!r}, which is no role: choose from {_KNOWN}")


def _check_modules(
    modules: Mapping[RoleName, Sequence[str]] | None, roles: Collection[RoleName]
) -> dict[RoleName, tuple[str, ...]]:
    """The modules named by hand, for each role that has any; None means none.

    Raises:
        UserError: A role not in ``roles``, or anything but a non-empty list of names.
    """
    checked: dict[RoleName, tuple[str, ...]] = {}
    for role, entries in (modules or {}).items():
        if role not in roles:
            wanted = ", ".join(repr(role) for role in roles)
            raise UserError(f"modules names role {role!r}, but the roles looked for are {wanted}")
        if isinstance(entries, str) or not entries or not all(map(_is_name, entries)):
            raise UserError(
                f"modules of role {role!r} is {entries!r}: give a list of module names, "
                'such as ["self_attn.q_proj"]'
            )
        checked[role] = tuple(entries)
    return checked


def _check_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """The layer indices; ``UserError`` unless there is one and all are integers from 0."""
    advice = "give layer indices from 0, such as [0, 1], or None for all layers"
    if not isinstance(layers, Collection) or not layers:
        raise UserError(f"layers={layers!r}: {advice}")
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
            raise UserError(f"layers has {layer!r}: {advice}")
    return tuple(layers)


def _is_name(entry: object) -> bool:
    return isinstance(entry, str) and bool(entry.strip("."))
