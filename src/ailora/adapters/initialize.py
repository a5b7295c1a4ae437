"""`ailora.get_peft_model`: a stock PEFT model whose factors start from the weights' spectrum."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import peft
from peft import LoraConfig, PeftModel
from torch import nn

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.files.checks import check_room, check_starts
from ailora.adapters.files.saved import remember
from ailora.adapters.optimizer import warn_if_rates_are_ignored
from ailora.adapters.starts.make import OnProgress, make_starts
from ailora.adapters.stock import peft_layers
from ailora.adapters.stock.folded import fold_all
from ailora.adapters.stock.four_bit import keep_gradients
from ailora.adapters.stock.lora_config import lora_config
from ailora.adapters.stock.surroundings import check_surroundings
from ailora.adapters.stock.tuner import use_started_tuner
from ailora.errors import UserError

logger = logging.getLogger(__name__)


def get_peft_model(
    model: nn.Module,
    config: AILoRAConfig,
    adapter_name: str = "default",
    *,
    autocast_adapter_dtype: bool = True,
    on_progress: OnProgress | None = None,
) -> PeftModel:
    """Wrap a model with LoRA factors that start as the config says.

    With ``base="anchored"`` (the default) the base weights stay as they are, bit for bit, and so
    does the model's function at step 0.

    Args:
        model: A transformers model, or a PeftModel that gets one more adapter beside its own.
        config: What each role starts from.
        adapter_name: Name of the adapter in the PEFT model.
        autocast_adapter_dtype: As in PEFT: factors over fp16 or bf16 weights are kept in fp32;
            False gives them the base's dtype.
        on_progress: Called with the weights done, their number, and the name of the next one, in
            place of the progress bar that appears after two seconds.

    Returns:
        A stock ``peft.PeftModel``. `ailora.create_optimizer` gives the roles their rates.

    Raises:
        UserError: before the model is changed, if it has no such projections, a rank is too high,
            a weight holds NaN or Inf, the adapter's name is taken, or 4-bit weights were packed for
            inference.
    """
    _check(model, config, adapter_name)
    keep_gradients(model)
    starts = make_starts(model, config, on_progress)
    check_starts(model, config, starts)
    lora = lora_config(model, config, starts)
    wrapped = _wrap(model, lora, adapter_name, autocast_adapter_dtype)
    use_started_tuner(wrapped)
    anchored = config.base == "anchored"
    peft_layers.install(wrapped, adapter_name, starts, anchored=anchored)
    anchors: Mapping[str, Any] = peft_layers.anchors(wrapped, adapter_name)
    if not anchored:
        anchors = fold_all(wrapped, adapter_name, starts)
    remember(wrapped, adapter_name, config, anchors)
    warn_if_rates_are_ignored(wrapped)
    return wrapped


def _check(model: nn.Module, config: AILoRAConfig, adapter_name: str) -> None:
    if not isinstance(config, AILoRAConfig):
        raise UserError(
            f"config is a {type(config).__name__}: give an ailora.AILoRAConfig, "
            "or call peft.get_peft_model for PEFT's own configs"
        )
    check_surroundings(config)
    check_room(model, config, adapter_name)
    if config.base == "folded" and config.dropout:
        logger.warning(
            "dropout=%g with base='folded' drops a part of W itself, so step 0 is not the "
            "pre-trained model; base='anchored' drops only the update",
            config.dropout,
        )


def _wrap(model: nn.Module, lora: LoraConfig, adapter_name: str, autocast: bool) -> PeftModel:
    if not isinstance(model, PeftModel):
        return peft.get_peft_model(model, lora, adapter_name, autocast_adapter_dtype=autocast)
    model.add_adapter(adapter_name, lora, autocast_adapter_dtype=autocast)
    return model
