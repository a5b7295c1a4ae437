"""Full fine-tuning: every parameter learns."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from ailora.lab.methods.saving import MethodRecord, mark
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks
from ailora.lab.settings import RunConfig


def full(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PreTrainedModel:
    """Train all of the model; it is saved as a whole."""
    check_no_ranks(settings, "full")
    model.requires_grad_(True)
    return mark(cast(PreTrainedModel, model), MethodRecord(method="full"))
