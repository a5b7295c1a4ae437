"""The modules that a config's ``target_modules`` selects, and the roles that they play."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from torch import nn

from ailora.adapters import peft_insides
from ailora.adapters.config import AILoRAConfig, Role
from ailora.adapters.left_out import (
    names_in_parts,
    say_the_parts_of,
    without_unfit,
)
from ailora.adapters.starts import STARTS
from ailora.errors import UserError
from ailora.roles import ROLE_NAMES, Projection, RoleName, assign_roles
from ailora.roles.architectures import matches
from ailora.roles.projection import starred
from ailora.roles.walk import walk

logger = logging.getLogger(__name__)


def select_by_name(
    model: nn.Module, config: AILoRAConfig, by_hand: dict[RoleName, Sequence[str]]
) -> tuple[list[Projection], list[str]]:
    """The linear layers that ``target_modules`` selects, and the names of the other modules.

    Raises:
        UserError: as `ailora.roles.assign_roles`; a name that matches nothing, or nothing of the
            parts; ``roles["*"]`` starts from the spectrum of a module that has none.
    """
    names = peft_insides.targets(config, model)
    _check_names(config, model)
    if config.parts is not None:
        names = names_in_parts(model, names, config)
    else:
        say_the_parts_of(model, names, config)
    alike = set(map(_without_modules, config.roles.values()))
    roles = list(config.named_roles)
    uniform = "*" in config.roles and len(alike) == 1
    found = assign_roles(model, names, roles, modules=by_hand, strict=not uniform, experts=True)
    if "*" in config.roles:
        found = _fused_rest(model, found, roles)
    linear = {p.name for p in found}
    others = [name for name in names if name not in linear]
    found = without_unfit(model, config, found)
    _say_the_rest(config, found)
    _say_others(others)
    if others and not STARTS[config.role_of("*").init].zero:
        raise UserError(
            f'roles["*"] starts from the spectrum, and {others[0]} is no linear layer; leave it '
            'out of target_modules, or give roles["*"] the init "gaussian"'
        )
    if config.is_spectral and all(STARTS[config.role_of(p.role).init].zero for p in found):
        logger.warning(
            "target_modules=%r: no module that it selects plays %s, so all start as plain LoRA; "
            'roles={"*": ailora.Role(init="principal")} gives them a start of their own',
            config.target_modules,
            " or ".join(roles),
        )
    return found, others


def _check_names(config: AILoRAConfig, model: nn.Module) -> None:
    if isinstance(config.target_modules, str):
        return
    paths = [place.name for place in walk(model)]
    for entry in sorted(config.target_modules):
        if not any(matches(path, entry) for path in paths):
            raise UserError(f"target_modules: no module is named {entry!r} or ends with it")


def _without_modules(role: Role) -> tuple[object, ...]:
    return role.init, role.scale, role.r, role.lora_alpha, role.lr_ratio


def _fused_rest(
    model: nn.Module, found: list[Projection], roles: Sequence[RoleName]
) -> list[Projection]:
    """With ``"*"`` named, the other roles of a fused layer take it, rather than nothing."""
    fused = {p.name for p in found if p.rows is not None}
    rest = [role for role in ROLE_NAMES if role not in roles]
    if not fused or not rest:
        return found
    more = [starred(p) for p in assign_roles(model, fused, rest, strict=False) if p.rows]
    return [
        p
        for name in dict.fromkeys(p.name for p in found)
        for p in (*(p for p in found if p.name == name), *(p for p in more if p.name == name))
    ]


def _say_the_rest(config: AILoRAConfig, found: Sequence[Projection]) -> None:
    """Log which layers take ``roles["*"]``, by the last part of their names."""
    rest = Counter(p.name.rpartition(".")[2] for p in found if p.role not in config.named_roles)
    if rest:
        logger.info(
            'roles["*"] (%s) takes %d layers that play none of the roles %s: %s',
            config.role_of("*").init,
            rest.total(),
            ", ".join(config.named_roles) or "named",
            ", ".join(f"{name} {count}" for name, count in rest.items()),
        )


def _say_others(others: Sequence[str]) -> None:
    """Log which selected modules have no spectrum of theirs taken (convolutions, embeddings)."""
    if others:
        count = Counter(name.rpartition(".")[2] for name in others)
        listed = ", ".join(f"{name} {number}" for name, number in count.items())
        logger.info(
            "%d modules are no linear layers and start as plain LoRA: %s", len(others), listed
        )
