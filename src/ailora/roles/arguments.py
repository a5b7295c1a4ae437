"""Checks of what the caller asked for, before any model is looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ailora.errors import UserError
from ailora.roles.projection import ROLE_NAMES, RoleName

_KNOWN = ", ".join(repr(role) for role in ROLE_NAMES)


def check_roles(roles: Collection[RoleName]) -> None:
    """Raises ``UserError`` unless ``roles`` has at least one role and nothing else."""
    if isinstance(roles, str) or not roles:
        raise UserError(f"roles={roles!r}: give a collection of at least one of {_KNOWN}")
    for role in roles:
        if role not in ROLE_NAMES:
            raise UserError(f"roles has {role!r}, which is no role: choose from {_KNOWN}")


def check_modules(
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


def check_layers(layers: Sequence[int]) -> tuple[int, ...]:
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
