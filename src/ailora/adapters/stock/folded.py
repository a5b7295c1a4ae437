"""The paper's own form: W <- W - s B0 A0 in the base, a plain rank-r adapter beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor

from ailora.adapters.starts.make import Start
from ailora.adapters.stock import peft_layers
from ailora.roles import Projection

logger = logging.getLogger(__name__)


def fold_all(model: PeftModel, adapter: str, starts: Sequence[Start]) -> dict[str, Tensor]:
    """Fold every spectral start into the base; returns the anchors to save along."""
    anchors: dict[str, Tensor] = {}
    lost: dict[str, float] = {}
    for start in (start for start in starts if start.spectral):
        lost[start.key] = fold(model, adapter, start.projection, start.A, start.B)
        anchors |= {f"{start.key}.A": start.A, f"{start.key}.B": start.B}
    _report_rounding(lost)
    return anchors


@torch.no_grad()
def fold(model: PeftModel, adapter: str, projection: Projection, A: Tensor, B: Tensor) -> float:
    """W <- W - s B A (eqs. 3 and 5), computed in fp64 and rounded once to the base's dtype.

    The scale s is the wrapped layer's own, which a reload finds again to the last bit.

    Returns:
        What that rounding cost, ||W - (W_r + s B A)|| / ||s B A||.
    """
    scaling = peft_layers.role_factors(model, adapter)[projection.key].scaling
    weight = projection.weight()
    part = (scaling * (B.double() @ A.double())).to(weight.device)
    exact = weight.double() - part
    projection.set_weight(exact)
    lost = torch.linalg.norm(projection.weight().double() - exact) / torch.linalg.norm(part)
    return float(lost.nan_to_num())


def _report_rounding(lost: dict[str, float]) -> None:
    worst = max(lost, key=lambda name: lost[name], default="")
    if worst and lost[worst] > 0.01:
        logger.warning(
            "base='folded': rounding W - B A to the base's dtype loses %.0f %% of B A at %s; "
            "base='anchored' loses nothing",
            100 * lost[worst],
            worst,
        )
