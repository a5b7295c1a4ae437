"""What a model computes on a batch, and whether it still is numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ailora.errors import UserError


class DivergedError(UserError):
    """Training ended in NaN or infinity."""


def check_finite(outputs: npt.NDArray[Any]) -> None:
    """Raise a DivergedError if a model's outputs hold NaN or infinity."""
    if not np.isfinite(outputs).all():
        raise DivergedError(
            "training diverged: the model's outputs are not finite; lower the learning rate"
        )


@torch.no_grad()
def outputs_on(model: nn.Module, batch: Any) -> Tensor:
    """Logits of one padded batch in evaluation mode; the model's mode is restored.

    Returns:
        What the model's task is decided by: ``logits``, or start and end logits one after the
        other, on the processor.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = model(**{name: value.to(device) for name, value in batch.items()})
    model.train(training)
    if "logits" in found:
        logits: Tensor = found.logits
        return logits.cpu()
    return torch.cat([found.start_logits, found.end_logits]).cpu()
