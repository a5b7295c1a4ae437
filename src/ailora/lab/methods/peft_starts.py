"""PEFT's own starts: their config, the batches they look at, and factors that leave W untouched.

OLoRA, LoRA-GA and CorDA write W - s B0 A0 into the base, whose adapters are then wrong on the base
model that everyone else has. Here PEFT makes B0 and A0 on a copy of each weight, and the library's
own anchored factors hold them: the same function of the same trainable parameters, and every
checkpoint is a plain LoRA of rank 2r on the untouched base (with ``anchored=False`` they are
subtracted after all).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from ailora.adapters import Role, presets
from ailora.adapters.starts import Factors
from ailora.adapters.wrap import Wanted, wrap
from ailora.errors import UserError
from ailora.lab.methods.lora_family import configured
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import common_fields
from ailora.lab.settings import RunConfig
from ailora.roles import Projection

_ADAPTER = "default"
_IGNORED = -100  # transformers' label of a position that is no part of the loss
Batch = dict[str, Any]


def peft_config(
    model: nn.Module, found: list[Projection], settings: RunConfig, init: str, **fields: Any
) -> LoraConfig:
    """PEFT's config of one of its starts; its advice on converting files is not for here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        return LoraConfig(
            r=settings.rank,
            lora_alpha=settings.rank if settings.lora_alpha is None else settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            init_lora_weights=init,
            **{**common_fields(model, found), **fields},
        )


def start_from(
    model: nn.Module, found: Sequence[Projection], stock: LoraConfig, settings: RunConfig
) -> PeftModel:
    """Wrap a model with anchored factors that start where PEFT's start would.

    Args:
        model: Only read.
        found: Its q and v.
        stock: PEFT's config of the start.
        settings: The method's.

    Raises:
        UserError: As `ailora.get_peft_model`; or the rank is above a weight's size.
    """
    role = Role(init=str(stock.init_lora_weights))
    config = configured(presets.lora, model, settings, roles={"q": role, "v": role})
    factors = {projection.key: _factors(projection, stock) for projection in found}
    return wrap(model, config, wanted=Wanted(factors=factors))


@torch.no_grad()
def _factors(projection: Projection, stock: LoraConfig) -> Factors:
    """Let PEFT adapt a copy of one layer, and look at its factors."""
    alone = nn.ModuleList([copy.deepcopy(projection.module)])
    config = copy.deepcopy(stock)
    config.target_modules, config.modules_to_save, config.task_type = {"0"}, None, None
    layer = peft.get_peft_model(alone, config).get_base_model()[0]
    A, B = (m[_ADAPTER].weight.detach().clone() for m in (layer.lora_A, layer.lora_B))
    return Factors(A=A, B=B)


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
