"""What a selection leaves out: other parts of a model of several, and experts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence

from torch import nn

from ailora.adapters import peft_insides
from ailora.adapters.config import AILoRAConfig
from ailora.errors import UserError
from ailora.roles import FEED_FORWARD_ROLES, Projection, unwrapped
from ailora.roles.feedforward import has_experts
from ailora.roles.find import in_parts
from ailora.roles.parts import PART_NAMES, PartName
from ailora.roles.projection import is_projection
from ailora.roles.walk import model_type, walk

logger = logging.getLogger(__name__)


def names_in_parts(model: nn.Module, names: Sequence[str], config: AILoRAConfig) -> list[str]:
    """Those of the names that are in the config's ``parts``.

    Raises:
        UserError: None is, or the model has no such part.
    """
    there = {place.name for place in in_parts(model, walk(model), config.parts)}
    kept = [name for name in names if name in there]
    if not kept:
        raise UserError(
            f"target_modules={config.target_modules!r} selects no module of "
            f"parts={config.parts!r}; leave one of them out"
        )
    return kept


def say_the_parts(model: nn.Module, config: AILoRAConfig) -> None:
    """Log which parts of a model of several are adapted where the config names none."""
    there = _several_parts(model)
    if config.parts is not None or not there:
        return
    halves = any(place.default and place.part != "language" for place in walk(model))
    logger.warning(
        "%s has several parts (%s): %s; parts=[...] chooses others",
        type(unwrapped(model)).__name__,
        ", ".join(there),
        "both halves are adapted" if halves else "the language part is adapted",
    )


def say_the_parts_of(model: nn.Module, names: Collection[str], config: AILoRAConfig) -> None:
    """Log that ``target_modules`` selects in several parts, as it does in PEFT."""
    if not _several_parts(model):
        return
    selected = set(names)
    count = Counter(place.part for place in walk(model) if place.name in selected)
    if len(count) > 1:
        logger.warning(
            "target_modules=%r selects in several parts of %s, as in PEFT (%s); parts=[...] keeps "
            "some of them",
            config.target_modules,
            type(unwrapped(model)).__name__,
            ", ".join(f"{part} {count[part]}" for part in (*PART_NAMES, None) if count[part]),
        )


def _several_parts(model: nn.Module) -> list[PartName]:
    """The parts that have linear layers, of a model with a tower and more; none of any other."""
    linear = [place.part for place in walk(model) if is_projection(place.module)]
    there = [part for part in PART_NAMES if part in linear]
    return there if {"vision", "audio"} & set(there) and len(there) > 1 else []


def without_mistaken_for_experts(
    model: nn.Module, config: AILoRAConfig, found: Sequence[Projection]
) -> list[Projection]:
    """The projections without those that PEFT would take for experts.

    Raises:
        UserError: one of them was asked for by name or role.
    """
    taken = set(peft_insides.taken_for_experts(model, [p.name for p in found]))
    if not taken:
        return list(found)
    asked = next((p for p in found if p.name in taken and p.role in config.named_roles), None)
    one = asked or next(p for p in found if p.name in taken)
    why = (
        f"PEFT takes the name {one.name.rpartition('.')[2]!r} for the experts of this "
        f"{type(model).__name__} (model type {model_type(model)!r}), so a saved adapter would "
        "adapt those instead"
    )
    if asked is not None or not _is_all(config):
        raise UserError(f"{one.name} ({one.role}) cannot be adapted: {why}; leave it out")
    logger.warning("%d layers are left out, such as %s: %s", len(taken), one.name, why)
    return [p for p in found if p.name not in taken]


def _is_all(config: AILoRAConfig) -> bool:
    """Whether the config asks for whatever there is, and names no modules."""
    asked = config.target_modules or "all-linear"
    return isinstance(asked, str) and asked.lower() == "all-linear"


def say_experts_are_left_out(
    model: nn.Module, config: AILoRAConfig, of_experts: Collection[str]
) -> None:
    """Log that roles of feed-forward blocks were asked for in a model with experts."""
    asked = [r for r in FEED_FORWARD_ROLES if r in config.roles and r not in of_experts]
    if asked and has_experts(walk(model)):
        logger.warning(
            "experts are left out: %s are roles of dense feed-forward blocks, unless "
            "target_parameters (or target_modules, where they are layers) selects experts",
            ", ".join(asked),
        )
