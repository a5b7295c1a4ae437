"""Going through a model's modules, under the names they have without PEFT around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeGuard

from torch import nn

from ailora.roles.naming import NAMINGS, Naming
from ailora.roles.projection import AttentionKind, RoleName


@dataclass(frozen=True, kw_only=True)
class Place:
    """A module, its dotted path, and the naming of the known architecture that it is part of."""

    name: str
    module: nn.Module = field(repr=False)
    naming: Naming | None

    @property
    def known(self) -> tuple[RoleName, AttentionKind] | None:
        """The role and kind of attention that the architecture's naming gives it, if any."""
        return self.naming.classify(self.name) if self.naming else None


def walk(model: nn.Module) -> list[Place]:
    """Every module below ``model`` once, parents first.

    PEFT leaves no trace in it: a tuner layer counts as its base layer, and what PEFT adds is left
    out. Inside a larger model (text and images, an encoder-decoder of two models) each part
    of a known architecture keeps its own naming, and the other parts have none.
    """
    return list(_below(unwrapped(model), "", None, set()))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that a ``PeftModel`` wraps; any other model as it is."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model


def model_type(model: nn.Module) -> str:
    """``config.model_type``, or the class name where there is none."""
    found = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) and found else type(model).__name__


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether the module is an ``nn.Linear`` with a 2-D floating-point weight."""
    # bitsandbytes' layers are nn.Linear too, with packed integers for a weight.
    return (
        isinstance(module, nn.Linear)
        and module.weight.ndim == 2
        and module.weight.is_floating_point()
    )


def _below(module: nn.Module, path: str, naming: Naming | None, seen: set[int]) -> Iterator[Place]:
    naming = naming or NAMINGS.get(model_type(module))
    for child_name, wrapped in module.named_children():
        child = _without_tuner(wrapped)
        if id(child) in seen:
            continue
        seen.add(id(child))
        name = f"{path}.{child_name}" if path else child_name
        yield Place(name=name, module=child, naming=naming)
        yield from _below(child, name, naming, seen)


def _without_tuner(module: nn.Module) -> nn.Module:
    # PEFT keeps the original under base_layer (tuners, nested for several) or original_module
    # (modules_to_save).
    for attribute in ("base_layer", "original_module"):
        inner = getattr(module, attribute, None)
        if isinstance(inner, nn.Module):
            return _without_tuner(inner)
    return module
