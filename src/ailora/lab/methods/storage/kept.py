"""Which method a model that is no PEFT model was adapted by, kept on the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)
_ATTRIBUTE = "ailora_method"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What must be known to save such a model, and to build it again.

    Attributes:
        method: Its name.
        bottleneck: Of Houlsby adapters.
    """

    method: Literal["full", "bitfit", "houlsby"]
    bottleneck: int | None = None


def keep(model: M, what: Kept) -> M:
    """Note it on the model, and return the model."""
    owner: Any = model
    setattr(owner, _ATTRIBUTE, what)
    return model


def kept(model: nn.Module) -> Kept | None:
    """What was noted, or None."""
    return getattr(model, _ATTRIBUTE, None)
