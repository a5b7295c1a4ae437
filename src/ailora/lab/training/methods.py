"""The methods that a run can train by: `ailora.lab.methods` under the names of ``--method``."""

from __future__ import annotations

from typing import Any

from torch import nn

from ailora.lab.methods import METHODS, Batches, method_named
from ailora.lab.training.config import RunConfig

# The methods that differ in their start alone: what a comparison takes by default.
PRESETS = {name: METHODS[name] for name in ("lora", "pissa", "milora", "ailora", "reailora")}


def check_method(name: str) -> None:
    """Raise a UserError that lists the methods if there is none of that name."""
    method_named(name)


def adapt(
    model: nn.Module, config: RunConfig, task_type: str, batches: Batches | None = None
) -> Any:
    """Adapt a model by the run's method.

    Args:
        model: With the task's head.
        config: The run's.
        task_type: PEFT's (``SEQ_CLS``, ...).
        batches: Makes a few training batches, for methods that start from data.

    Returns:
        A ``peft.PeftModel``, or for full fine-tuning, BitFit and Houlsby the model itself;
        `ailora.lab.methods` saves, loads, merges and counts both.

    Raises:
        UserError: The method does not fit the model, or needs data and got none.
    """
    return METHODS[config.method].build(model, config.method_settings(task_type), batches)
