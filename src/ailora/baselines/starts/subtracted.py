"""PEFT's starts that change the base weight, made so that they do not.

OLoRA, LoRA-GA and CorDA write W - s B0 A0 into the base, whose adapters are then wrong on the base
model that everyone else has. Here PEFT makes B0 and A0 on a copy of each weight, and the library's
own anchored factors hold them: the same function of the same trainable parameters, and every
checkpoint is a plain LoRA of rank 2r on the untouched base (with ``base="folded"`` they are
subtracted after all).

The files are those of `ailora.get_peft_model`; their marker names PEFT's start, and the factors
come from the anchors' file again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from ailora.adapters import AILoRAConfig, Role, presets
from ailora.adapters.files.checks import check_room, check_starts
from ailora.adapters.files.saved import remember
from ailora.adapters.starts.make import Start
from ailora.adapters.stock import peft_layers
from ailora.adapters.stock.folded import fold_all
from ailora.adapters.stock.lora_config import lora_config
from ailora.adapters.stock.tuner import use_started_tuner
from ailora.baselines.presets import configured
from ailora.baselines.settings import Settings
from ailora.baselines.targets import common_fields
from ailora.errors import UserError
from ailora.roles import Projection, RoleName

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
    """
    role = Role(init=stock.init_lora_weights)
    roles: dict[RoleName, Role] = {"q": role, "v": role}
    config = configured(presets.lora, model, settings, roles=roles)
    check_room(model, config, _ADAPTER)
    _check_rank(found, settings)
    starts = [_start(projection, stock) for projection in found]
    check_starts(model, config, starts)
    wrapped = peft.get_peft_model(model, lora_config(model, config, starts))
    use_started_tuner(wrapped)
    remember(wrapped, _ADAPTER, config, _install(wrapped, config, starts))
    return wrapped


def _install(
    wrapped: PeftModel, config: AILoRAConfig, starts: Sequence[Start]
) -> Mapping[str, Any]:
    anchored = config.base == "anchored"
    peft_layers.install(wrapped, _ADAPTER, starts, anchored=anchored)
    return (
        peft_layers.anchors(wrapped, _ADAPTER) if anchored else fold_all(wrapped, _ADAPTER, starts)
    )


def _check_rank(found: Sequence[Projection], settings: Settings) -> None:
    most = min(min(projection.shape) for projection in found)
    if settings.rank > most:
        raise UserError(f"rank={settings.rank}: can be {most} at most in this model")


@torch.no_grad()
def _start(projection: Projection, stock: LoraConfig) -> Start:
    """Let PEFT adapt a copy of one layer, and look at its factors."""
    alone = nn.ModuleList([copy.deepcopy(projection.module)])
    config = copy.deepcopy(stock)
    config.target_modules, config.modules_to_save, config.task_type = {"0"}, None, None
    layer = peft.get_peft_model(alone, config).get_base_model()[0]
    return Start(
        projection=projection,
        spectral=True,
        A=layer.lora_A[_ADAPTER].weight.detach().clone(),
        B=layer.lora_B[_ADAPTER].weight.detach().clone(),
        scaling=layer.scaling[_ADAPTER],
        lr_ratio=1.0,
    )
