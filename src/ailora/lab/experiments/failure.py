"""Why a run failed, in a word and in a line."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from ailora.errors import UserError
from ailora.lab.training import RunConfig
from ailora.lab.training.measure import DivergedError

Kind = Literal["diverged", "memory", "input", "error"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that did not come to its end, as ``failed.json`` holds it.

    Attributes:
        config: The run's settings as a dictionary.
        kind: "diverged", "memory", "input" (what the user can mend) or "error".
        reason: One line.
        details: The traceback of an "error".
    """

    config: Mapping[str, Any]
    kind: Kind
    reason: str
    details: str = ""

    @classmethod
    def from_json(cls, found: Any) -> Failure | None:
        """What ``failed.json`` says; None if it is no such thing."""
        try:
            failure = cls(**found)
        except TypeError:
            return None
        return failure if failure.kind in get_args(Kind) else None


def failure_of(config: RunConfig, error: BaseException) -> Failure:
    """What to write down of an exception that ended a run."""
    kind = _kind(error)
    first = (str(error).strip().splitlines() or [""])[0]
    named = first if first and kind != "error" else f"{type(error).__name__}: {first}".rstrip(": ")
    details = "".join(traceback.format_exception(error)) if kind == "error" else ""
    return Failure(config=asdict(config), kind=kind, reason=named, details=details)


def _kind(error: BaseException) -> Kind:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, UserError):
        return "input"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "memory"
    # torch's own allocator for the processor raises a plain RuntimeError.
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return "memory" if any(word in str(error).lower() for word in words) else "error"
