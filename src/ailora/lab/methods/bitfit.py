"""BitFit (Ben Zaken et al. 2022): only bias terms learn, and the task's head."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from ailora.errors import UserError
from ailora.lab.methods.saving import MethodRecord, mark
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, head_parameters
from ailora.lab.settings import RunConfig
from ailora.roles.walk import model_type


def bitfit(
    model: nn.Module, settings: RunConfig, batches: Batches | None = None
) -> PreTrainedModel:
    """Train every parameter called ``bias`` (layer norms' too) and the head.

    Raises:
        UserError: The model's body has no bias terms, as LLaMA's and T5's.
    """
    check_no_ranks(settings, "bitfit")
    head = dict(head_parameters(model))
    biases = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "bias" and name not in head
    ]
    if not biases:
        raise UserError(
            f"method 'bitfit' trains bias terms, and {type(model).__name__} (model type "
            f"{model_type(model)!r}) has none; choose another method"
        )
    model.requires_grad_(False)
    for _, parameter in (*biases, *head.items()):
        parameter.requires_grad_(True)
    return mark(cast(PreTrainedModel, model), MethodRecord(method="bitfit"))
