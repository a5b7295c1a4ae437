"""The methods that can be trained, each a function from a model to an adapted model."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from peft import PeftModel
from torch import nn

from ailora.adapters import AILoRAConfig, get_peft_model, presets
from ailora.errors import UserError
from ailora.training.config import RunConfig

PRESETS: dict[str, Callable[..., AILoRAConfig]] = {
    "lora": presets.lora,
    "pissa": presets.pissa,
    "milora": presets.milora,
    "ailora": presets.ailora,
    "reailora": presets.reailora,
}


def check_method(name: str) -> None:
    """Raise a UserError that lists the methods if there is none of that name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"method {name!r} is not known (there are {', '.join(PRESETS)}){hint}")


def adapt(model: nn.Module, config: RunConfig, task_type: str) -> PeftModel:
    """Wrap a model with the run's adapter; ``task_type`` is PEFT's (``SEQ_CLS``, ...).

    Raises:
        UserError: As `ailora.get_peft_model`.
    """
    adapter = PRESETS[config.method](**config.adapter_options(), task_type=task_type)
    return get_peft_model(model, adapter)
