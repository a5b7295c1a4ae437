"""What a selection leaves out: other parts of a model of several, and experts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from ailora.adapters import peft_conversion, peft_insides
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


def without_unfit(
    model: nn.Module, config: AILoRAConfig, found: Sequence[Projection]
) -> list[Projection]:
    """The projections without those whose adapter would do nothing, or not be loaded again.

    Raises:
        UserError: one of them was asked for by name or role.
    """
    unfit = _unfit(model, [p.name for p in found])
    everything = asks_for_all(config)
    asked = next((p for p in found if p.name in unfit and p.role in config.named_roles), None)
    if unfit and (asked or not everything):
        one = asked or next(p for p in found if p.name in unfit)
        raise UserError(
            f"{one.name} ({one.role}) cannot be adapted: {unfit[one.name]}; leave it out"
        )
    if everything and config.target_modules:
        unfit |= _heads(model, [p.name for p in found if p.name not in unfit])
    for why, count in Counter(unfit.values()).items():
        one = next(p for p in found if unfit.get(p.name) == why)
        logger.warning("%d layers are left out, such as %s: %s", count, one.name, why)
    return [p for p in found if p.name not in unfit]


def _unfit(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Why some of the layers cannot be adapted, by name."""
    kind = f"{type(unwrapped(model)).__name__} (model type {model_type(model)!r})"
    found: dict[str, str] = {}
    for name in peft_conversion.lost_on_loading(model, names):
        found[name] = (
            f"PEFT renames its factors when it loads an adapter of this {kind}, and would not load "
            "them again"
        )
    for name in peft_conversion.taken_for_experts(model, names):
        found[name] = (
            f"PEFT takes that name for the experts of this {kind}, so a saved adapter would adapt "
            "those instead"
        )
    wanted = set(names)
    for place in walk(model):
        if not place.called and place.name in wanted:
            found[place.name] = (
                "the module around it reads its weight itself and never calls the layer, so an "
                "adapter of it would do nothing until it is merged"
            )
    return found


def _heads(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Output layers that PEFT's "all-linear" would leave out as well, if it knew them for such."""
    inner = unwrapped(model)
    layers = {name: peft_insides.base_layer(inner.get_submodule(name)) for name in names}
    embeddings = {
        id(module._parameters.get("weight")): name
        for name, module in inner.named_modules()
        if isinstance(module, nn.Embedding)
    }
    found = {
        name: f"its weight is that of {embeddings[id(weight)]} too, which a merge would change"
        for name, layer in layers.items()
        if (weight := layer._parameters.get("weight")) is not None and id(weight) in embeddings
    }
    if not _has_embeddings(inner):
        why = "PEFT saves a layer of this name with the embeddings, which this model has not"
        found |= {name: why for name in names if name.rpartition(".")[2] == "lm_head"}
    return found


def _has_embeddings(model: Any) -> bool:
    try:
        return not hasattr(model, "get_input_embeddings") or bool(model.get_input_embeddings())
    except (NotImplementedError, AttributeError):
        return False


def asks_for_all(config: AILoRAConfig) -> bool:
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
