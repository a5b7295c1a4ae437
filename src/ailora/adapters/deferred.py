"""A PeftConfig for trainers that wrap the model themselves (TRL's ``peft_config=``)."""

from __future__ import annotations

from typing import Any

from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, LoraConfig, PeftConfig, PeftModel
from torch import nn

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.initialize import get_peft_model
from ailora.errors import UserError

_TASK = "AILORA"

# PEFT's other ways to wrap a model (PeftMixedModel, add_adapter, ...) would take the deferred
# config for a plain LoRA. They look for its target modules, and their error quotes these.
_NO_MODULES = (
    "this config is for peft.get_peft_model(model, config) alone, without mixed=True; elsewhere "
    "call ailora.get_peft_model(model, ailora.AILoRAConfig(...), adapter_name)"
)


class DeferredConfig(LoraConfig):  # type: ignore[misc]
    """A start that waits for its model.

    ``peft.get_peft_model`` looks up by ``task_type`` who wraps the model, which is how the call
    reaches ailora. The wrapped model has an ordinary config, with the task that was asked for.
    """

    start_config: AILoRAConfig

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Refused: there is no adapter yet."""
        raise UserError(
            f"cannot save to {save_directory}: this config has no model yet; pass it to "
            "peft.get_peft_model or a trainer's peft_config= and save the model"
        )


def peft_config(config: AILoRAConfig) -> PeftConfig:
    """A ``PeftConfig`` for whoever calls ``peft.get_peft_model`` out of your reach.

    As in ``trl.SFTTrainer(model, peft_config=ailora.peft_config(ailora.AILoRAConfig(r=8)))``: the
    trainer's call gives what `ailora.get_peft_model` gives.

    Args:
        config: What each role starts from.

    Raises:
        UserError: `config` is no `AILoRAConfig`.
    """
    if not isinstance(config, AILoRAConfig):
        raise UserError(f"config is a {type(config).__name__}: give an ailora.AILoRAConfig")
    MODEL_TYPE_TO_PEFT_MODEL_MAPPING[_TASK] = _wrap
    deferred = DeferredConfig(r=config.r, lora_dropout=config.dropout, target_modules=[_NO_MODULES])
    deferred.task_type = _TASK  # set afterwards, since PEFT's own tasks are all that it takes
    deferred.start_config = config
    return deferred


def _wrap(
    model: nn.Module,
    config: DeferredConfig,
    adapter_name: str = "default",
    *,
    autocast_adapter_dtype: bool = True,
    low_cpu_mem_usage: bool = False,
) -> PeftModel:
    del low_cpu_mem_usage  # factors on the meta device could not start from the weights
    return get_peft_model(
        model, config.start_config, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype
    )
