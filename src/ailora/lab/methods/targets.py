"""Q and V as PEFT's own methods take them: whole layers, by name."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ailora.errors import UserError
from ailora.lab.methods.head import head_names
from ailora.lab.methods.settings import Settings
from ailora.roles import Projection, find_projections


def whole_layers(model: nn.Module, method: str) -> list[Projection]:
    """The model's q and v projections.

    Raises:
        UserError: They are rows of a fused layer, which the method would adapt in full, or the
            model has none.
    """
    found = find_projections(model, ("q", "v"))
    fused = next((projection for projection in found if projection.rows is not None), None)
    if fused is not None:
        raise UserError(
            f"method {method!r} adapts whole layers, and in {fused.name} the {fused.role} is only "
            "some of the rows; choose one that adapts them alone (lora, pissa, milora, ailora, "
            "reailora, rslora)"
        )
    return found


def common_fields(model: nn.Module, found: list[Projection], settings: Settings) -> dict[str, Any]:
    """The fields that PEFT's configs share: which layers, the head, the task."""
    return {
        "target_modules": [projection.name for projection in found],
        "fan_in_fan_out": all(isinstance(projection.module, Conv1D) for projection in found),
        "modules_to_save": head_names(model) or None,
        "task_type": settings.task_type,
    }


def check_no_ranks(settings: Settings, method: str) -> None:
    """Raise a UserError for ranks by role, which only the methods that start by role have."""
    if settings.ranks is not None:
        raise UserError(
            f"method {method!r} has no ranks by role, so ranks={dict(settings.ranks)!r} is not for "
            "it; choose lora, pissa, milora, ailora, reailora, dora or rslora"
        )
