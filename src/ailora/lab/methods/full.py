"""Full fine-tuning: every parameter learns."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from ailora.lab.methods.settings import Batches, Settings
from ailora.lab.methods.storage.kept import Kept, keep
from ailora.lab.methods.targets import check_no_ranks


def full(model: nn.Module, settings: Settings, batches: Batches | None = None) -> PreTrainedModel:
    """Train all of the model; it is saved as a whole."""
    check_no_ranks(settings, "full")
    model.requires_grad_(True)
    return keep(cast(PreTrainedModel, model), Kept(method="full"))
