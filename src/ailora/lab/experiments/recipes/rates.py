"""Learning rates of the methods that need others than the low-rank ones do."""

from __future__ import annotations

from collections.abc import Mapping

from ailora.lab.experiments.recipes.base import Scale

NOTES = (
    'Full fine-tuning: the paper says "as in the original paper", which is RoBERTa\'s: rates 1e-5 '
    "to 3e-5 (from memory, not verified); epochs and batch are those of the low-rank methods.",
    "Adapter and BitFit: the paper states no rates; grids around 3e-4 (LoRA's appendix D, table 9) "
    "and 1e-3 (BitFit's code). VeRA: around 1e-2 (from memory, not verified).",
)

_PAPER: Mapping[str, tuple[float, ...]] = {
    "full": (1e-5, 2e-5, 3e-5),
    "houlsby": (1e-4, 3e-4, 1e-3),
    "bitfit": (3e-4, 1e-3, 3e-3),
    "vera": (3e-3, 1e-2, 3e-2),
}
# The embedded encoder is a tenth of the size, and takes larger steps.
_SMALL: Mapping[str, tuple[float, ...]] = {
    "full": (5e-5, 1e-4, 2e-4, 4e-4),
    "bitfit": (1e-3, 2e-3, 4e-3, 8e-3),
    "vera": (4e-3, 8e-3, 1.6e-2, 3.2e-2),
}
_SMOKE: Mapping[str, tuple[float, ...]] = {"full": (1e-4,), "vera": (1e-2,)}
_OWN: Mapping[Scale, Mapping[str, tuple[float, ...]]] = {
    "paper": _PAPER,
    "small": _SMALL,
    "smoke": _SMOKE,
}


def rates_of(method: str, scale: Scale) -> tuple[float, ...] | None:
    """The method's own rates; None where it takes those of its scale and task."""
    return _OWN[scale].get(method)
