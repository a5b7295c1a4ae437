"""Decompositions kept on disk: the second start of a model reads what the first one computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ailora.cache.disk import Status, clear, status

if TYPE_CHECKING:
    from ailora.cache.decompositions import decompose

__all__ = ["Status", "clear", "decompose", "status"]


def __getattr__(name: str) -> Any:
    """Import torch only for `decompose`: `ailora cache` does without."""
    if name != "decompose":
        raise AttributeError(f"module 'ailora.cache' has no attribute {name!r}")
    from ailora.cache.decompositions import decompose  # noqa: PLC0415

    return decompose
