"""PEFT's starts that change the base weight, made so that they do not.

OLoRA, LoRA-GA and CorDA write W - s B0 A0 into the base, whose adapters are then wrong on the base
model that everyone else has. Here PEFT makes B0 and A0 on a copy of each weight, and the library's
own anchored factors hold them: the same function of the same trainable parameters, and every
checkpoint is a plain LoRA of rank 2r on the untouched base (with ``base="folded"`` they are
subtracted after all).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from ailora.adapters import Role, presets
from ailora.adapters.starts import Factors
from ailora.adapters.wrap import Wanted, wrap
from ailora.lab.methods.presets import configured
from ailora.lab.methods.settings import Settings
from ailora.lab.methods.targets import common_fields
from ailora.roles import Projection

_ADAPTER = "default"


def peft_config(
    model: nn.Module, found: list[Projection], settings: Settings, init: str, **fields: Any
) -> LoraConfig:
    """PEFT's config of one of its starts; its advice on converting files is not for here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        return LoraConfig(
            r=settings.rank,
            lora_alpha=settings.lora_alpha,
            init_lora_weights=init,
            **{**common_fields(model, found, settings), **fields},
        )


def start_from(
    model: nn.Module, found: Sequence[Projection], stock: LoraConfig, settings: Settings
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
