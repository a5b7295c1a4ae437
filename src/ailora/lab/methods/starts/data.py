"""Training batches as the starts that look at data want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ailora.errors import UserError
from ailora.lab.methods.settings import Batches

_IGNORED = -100  # transformers' label of a position that is no part of the loss
Batch = dict[str, Any]


def batches_of(model: nn.Module, batches: Batches | None, method: str) -> list[Batch]:
    """The batches on the model's device.

    Raises:
        UserError: There are none.
    """
    device = next(model.parameters()).device
    found = [
        {name: value.to(device) for name, value in batch.items()}
        for batch in (batches() if batches is not None else ())
    ]
    if not found:
        raise UserError(f"method {method!r} starts from data: give it some training batches")
    return found


def rows_of(batch: Mapping[str, Any]) -> Iterator[Batch]:
    """Each row of a batch as a batch of its own, without its padding."""
    for index in range(len(batch["input_ids"])):
        row = {name: value[index : index + 1] for name, value in batch.items()}
        yield _without_padding(row)


def _without_padding(row: Batch) -> Batch:
    found = {}
    for name, value in row.items():
        kept = token_mask(row, value.shape)
        found[name] = value if kept is None else value[kept][None]
    return found


def token_mask(batch: Mapping[str, Any], shape: torch.Size) -> Tensor | None:
    """Which positions of (rows, length) are no padding; None where that is not known.

    An encoder-decoder's targets are told from its inputs by their length.
    """
    mask: Tensor | None = batch.get("attention_mask")
    if mask is not None and mask.shape == shape:
        return mask.bool()
    labels: Tensor | None = batch.get("labels")
    if labels is not None and labels.ndim > 1 and labels.shape == shape:
        return labels != _IGNORED
    return None
