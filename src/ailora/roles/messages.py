"""What to tell someone whose model or names do not fit: one line, with what was found instead."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from torch import nn

from ailora.errors import nearest
from ailora.roles.architectures import is_attention
from ailora.roles.feedforward import has_experts
from ailora.roles.parts import PartName
from ailora.roles.projection import (
    ATTENTION_ROLES,
    FEED_FORWARD_ROLES,
    RoleKey,
    RoleName,
    is_computed,
)
from ailora.roles.reading import Problem, Reading, is_matrix
from ailora.roles.walk import Place, model_type

_MOST_LISTED = 12


def no_projection(
    role: RoleName, model: nn.Module, places: Sequence[Place], reading: Reading
) -> str:
    """Message for a role without a module, in a model with blocks that are known or without."""
    for parts in reading.parts.values():
        for part in parts:
            if part.role == role:
                return f"role {role!r}: {_unfit(part.place)}"
    known = bool(reading.parts)
    problem = f"has no projection of role {role!r}" if known else "is no architecture known here"
    if role in FEED_FORWARD_ROLES:
        problem += _without_dense(role, places, reading)
    attention = None if known or role not in ATTENTION_ROLES else _attention_class(places)
    if attention:
        problem = f"has no q, k and v that are linear layers of their own in its {attention!r}"
    found = _suffixes(places, depth=1)
    listed = f"its linear layers are named {_listed(found)}" if found else "it has no linear layer"
    return f"{_kind(model)} {problem}; {listed}; {_by_hand(role, '...')}"


def _without_dense(role: RoleName, places: Sequence[Place], reading: Reading) -> str:
    """Why a model may lack a role of the feed-forward block."""
    found = {part.role for parts in reading.parts.values() for part in parts}
    if role == "gate" and "up" in found:
        return " (its feed-forward blocks have no gate: their first matrix is 'up')"
    if has_experts(places):
        return " (its feed-forward blocks are mixtures of experts, which have no roles here)"
    return ""


def partly_usable(places: Sequence[Place]) -> str:
    """Message for a role that some layers play with modules that cannot be adapted."""
    names = [place.name for place in places]
    return (
        f"only some of the layers can be adapted: {_listed(names)} "
        f"{'is' if len(names) == 1 else 'are'} of class {type(places[0].module).__name__}; adapt "
        "the others alone with layers_to_transform, or name them in target_modules"
    )


def unreadable(model: nn.Module, problem: Problem, role: RoleName) -> str:
    """Message for a block that is there but cannot be read for certain."""
    place = problem.place
    what = "attention" if role in ATTENTION_ROLES else "a feed-forward block"
    return (
        f"{_kind(model)} has {what} of a kind that cannot be used: {place.name!r} "
        f"({type(place.module).__name__}): {problem.why}; if you know what plays a role, "
        f"{_by_hand(role, '...')}"
    )


def fused(role: RoleName, entry: str, place: Place, holds: Sequence[RoleKey]) -> str:
    """Message for a hand-given name of a layer that also holds other roles."""
    if not holds:
        return (
            f"modules of role {role!r}: {entry!r} fits {place.name!r}, which by its name holds "
            "several roles in one weight, in a layout that is not known here; leave it out"
        )
    return (
        f"modules of role {role!r}: {entry!r} fits {place.name!r}, of which only some rows are "
        f"{' and '.join(map(repr, holds))}; they are found by themselves: leave modules out"
    )


def unmatched(role: RoleName, entry: str, places: Sequence[Place]) -> str:
    """Message for a hand-given name that no module has."""
    same_depth = _suffixes(places, depth=entry.count(".") + 1)
    hint = nearest(entry, same_depth, most=4) or f"there are {_listed(same_depth)}"
    return f"modules of role {role!r}: no module is named {entry!r} or ends with it; {hint}"


def not_linear(role: RoleName, entry: str, place: Place) -> str:
    """Message for a hand-given name of modules that are not linear layers."""
    return f"modules of role {role!r}: {entry!r} fits nothing usable; {_unfit(place)}"


def no_part(part: PartName, model: nn.Module, there: Sequence[PartName]) -> str:
    """Message for a part that a model does not have."""
    has = " and ".join(map(repr, there))
    return f"parts names {part!r}, and {_kind(model)} has none: it has {has}"


def two_roles(name: str, roles: Sequence[RoleKey]) -> str:
    """Message for a module that was given more than one role."""
    both = " and ".join(repr(role) for role in roles)
    return f"module {name!r} is named for roles {both}; name each module for one role only"


def no_layer(role: RoleKey, layer: int, present: Collection[int]) -> str:
    """Message for a layer index that the projections of a role do not have."""
    if not present:
        return (
            f"layers has {layer}, but the projections of role {role!r} belong to no one layer "
            "(shared or not numbered); leave layers out"
        )
    first, last = min(present), max(present)
    whole = len(present) == last - first + 1 and len(present) > 1
    there = f"{first} to {last}" if whole else ", ".join(map(str, sorted(present)))
    return f"layers has {layer}, but the projections of role {role!r} are in layers {there}"


def _kind(model: nn.Module) -> str:
    return f"{type(model).__name__} (model type {model_type(model)!r})"


def _attention_class(places: Iterable[Place]) -> str | None:
    classes = (type(place.module).__name__ for place in places if place.default)
    return next((name for name in classes if is_attention(name, "")), None)


def _unfit(place: Place) -> str:
    if is_computed(place.module):
        return (
            f"{place.name!r} has a weight that torch computes from others at each call (weight "
            "norm, pruning), so that an update could not be merged into it"
        )
    weight = getattr(place.module, "weight", None)
    dtype = f" with a {weight.dtype} weight" if weight is not None else ""
    return (
        f"{place.name!r} is of class {type(place.module).__name__}{dtype}, "
        "and only an nn.Linear or Conv1D with a floating-point weight can be a projection"
    )


def _by_hand(role: RoleName, name: str) -> str:
    return f'name them by hand: roles={{"{role}": Role(modules=["{name}"])}}'


def _suffixes(places: Iterable[Place], depth: int) -> list[str]:
    paths = [place.name for place in places if is_matrix(place.module)]
    return list(dict.fromkeys(".".join(path.split(".")[-depth:]) for path in paths))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(repr(name) for name in names[:_MOST_LISTED]) + more
