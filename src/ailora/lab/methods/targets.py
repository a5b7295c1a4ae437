"""What a method finds in a model: whole q and v layers, the task's new head, the kind of task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ailora.checkpoints.structure import task_type_of
from ailora.errors import UserError
from ailora.lab.settings import RunConfig
from ailora.roles import Projection, find_projections, unwrapped


def whole_layers(model: nn.Module, method: str) -> list[Projection]:
    """The model's q and v projections, as PEFT's own methods take them.

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


def common_fields(model: nn.Module, found: list[Projection]) -> dict[str, Any]:
    """The fields that PEFT's configs share: which layers, the head, the task."""
    return {
        "target_modules": [projection.name for projection in found],
        "fan_in_fan_out": all(isinstance(projection.module, Conv1D) for projection in found),
        "modules_to_save": head_names(model) or None,
        "task_type": task_type_of(unwrapped(model)),
    }


def check_no_ranks(settings: RunConfig, method: str) -> None:
    """Raise a UserError for ranks by role, which only the methods that start by role have."""
    if settings.ranks is not None:
        raise UserError(
            f"method {method!r} has no ranks by role, so ranks={dict(settings.ranks)!r} is not for "
            "it; choose lora, pissa, milora, ailora, reailora, dora or rslora"
        )


def head_names(model: nn.Module) -> list[str]:
    """Names of the modules that a task put on the pre-trained body, in the model's order.

    PEFT knows some by name (``classifier``, ``score``, ``qa_outputs``); by structure they are
    the children outside the body, so DeBERTa's pooler and BART's ``classification_head``, which
    start at random too, are among them. The head of a language model was pre-trained and is none.
    """
    whole = unwrapped(model)
    if not isinstance(whole, PreTrainedModel) or whole.get_output_embeddings() is not None:
        return []
    body = whole.base_model
    if body is whole:
        return []
    return [
        name
        for name, child in whole.named_children()
        if child is not body and next(child.parameters(), None) is not None
    ]


def head_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of a head that no adapter has wrapped."""
    for name in head_names(model):
        for inner, parameter in unwrapped(model).get_submodule(name).named_parameters():
            yield f"{name}.{inner}", parameter
