"""The paper's own form: W <- W - s B0 A0 in the base, a plain rank-r adapter beside it.

Layers that hold a residual are marked for as long as they do, so that nothing silently takes them
for the pre-trained model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ailora.adapters import peft_insides
from ailora.adapters.record import Record
from ailora.errors import UserError
from ailora.roles import Projection
from ailora.roles.projection import is_in_pieces, is_quantised

logger = logging.getLogger(__name__)

_MARK = "_ailora_residual"
_OURS = "adapter"
# PEFT's starts that write W - B A (or a quantised W) into the base.
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_weights(model: nn.Module, projections: Iterable[Projection]) -> None:
    """Raise a UserError for weights that are quantised, in pieces or shared with another."""
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name.removesuffix(".base_layer"))
    for projection in projections:
        module = projection.module
        weight: Any = module.weight
        if is_quantised(module):
            raise UserError(
                f"anchored=False would change the quantised weight of {projection.name}; use "
                "anchored=True, which leaves it as it is"
            )
        if is_in_pieces(weight):
            raise UserError(
                f"anchored=False would change {projection.name}, which DeepSpeed ZeRO-3 holds in "
                "pieces; use anchored=True, which leaves it as it is, or the files of `ailora init`"
            )
        others = owners.get(id(weight), set()) - {projection.name}
        if others:
            raise UserError(
                f"anchored=False would change {projection.name}, whose weight {min(others)} "
                "shares; use anchored=True, which leaves it as it is"
            )


@torch.no_grad()
def fold(projections: Mapping[str, Projection], record: Record, adapter: str) -> None:
    """W <- W - s B0 A0 (eqs. 3 and 5), in fp64, rounded once to the base's dtype.

    Args:
        projections: By key; those that the record has anchors of are changed.
        record: The anchors and the layers' scales.
        adapter: Whose start it is, for messages.
    """
    lost: dict[str, float] = {}
    for key, projection in projections.items():
        if f"{key}.A" not in record.anchors:
            continue
        A, B = (record.anchors[f"{key}.{letter}"].double() for letter in "AB")
        weight = projection.weight()
        part = (record.scaling[projection.name] * (B @ A)).to(weight.device)
        exact = weight.double() - part
        projection.set_weight(exact)
        loss = torch.linalg.norm(projection.weight().double() - exact) / torch.linalg.norm(part)
        lost[key] = float(loss.nan_to_num())
        mark(projection.module, f"{_OURS} {adapter!r} is folded into it")
    worst = max(lost, key=lambda key: lost[key], default="")
    if worst and lost[worst] > 0.01:
        logger.warning(
            "anchored=False: rounding W - B A to the base's dtype loses %.0f %% of B A at %s; "
            "anchored=True loses nothing",
            100 * lost[worst],
            worst,
        )


def check_not_folded(projections: Mapping[str, Projection], record: Record, folder: Path) -> None:
    """Raise a UserError if a model's weights lack the start already (files of ``ailora init``).

    With P = s B0 A0, <P, W - P> = <P, W> - ||P||^2.
    """
    for layer, blocks in record.layers.items():
        for block in blocks:
            key = block.key(layer)
            if key not in record.within:
                continue
            A, B = (record.anchors[f"{key}.{letter}"].double() for letter in "AB")
            found = inner(A, B, record.scaling[layer], projections[key].weight())
            size = record.scaling[layer] ** 2 * float(((B.T @ B) * (A @ A.T)).sum())
            if size > 0 and found < record.within[key] - 0.5 * size:
                raise UserError(
                    f"{folder}: its start is already taken out of {key} (a residual model as "
                    "`ailora init` writes): load it with peft.PeftModel.from_pretrained there, or "
                    "ailora.load_adapter it into the original model"
                )


def inner(A: Tensor, B: Tensor, scaling: float, weight: Tensor) -> float:
    """<s B A, W>: how much of a start is in a weight; in fp64, A (r, n), B (m, r), W (m, n)."""
    A, B = (matrix.detach().to(weight.device, torch.float64) for matrix in (A, B))
    return scaling * float(((B.T @ weight.detach().double()) * A).sum())


def mark(module: nn.Module, why: str) -> None:
    """Note on a layer that its weight is a residual."""
    setattr(module, _MARK, why)


def is_ours(module: nn.Module) -> bool:
    """Whether this library folded a start into a layer."""
    return str(getattr(module, _MARK, "")).startswith(_OURS)


def mark_stock(model: nn.Module, adapter: str, init: object) -> None:
    """The same for the layers of an adapter that PEFT started by changing the base."""
    if isinstance(init, str) and init.startswith(CHANGE_THE_BASE):
        for layer in peft_insides.lora_layers(model, adapter).values():
            mark(layer.get_base_layer(), f"PEFT's start {init!r} changed it")


def unmark(model: nn.Module) -> None:
    """The weights are whole again: what was taken out has been merged back."""
    for module in model.modules():
        if hasattr(module, _MARK):
            delattr(module, _MARK)


def check_whole(model: nn.Module) -> None:
    """Raise a UserError if a weight of the model is a residual."""
    for name, module in model.named_modules():
        why = getattr(module, _MARK, None)
        if why is not None:
            raise UserError(
                f"the weight of {name.removesuffix('.base_layer')} is a residual W - B A "
                f"({why}): nothing else fits on it; load the base model anew, or use "
                "anchored=True in both"
            )
