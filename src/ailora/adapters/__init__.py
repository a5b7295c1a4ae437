"""Adapters: what they start from, and how they are wrapped, saved, loaded and optimised."""

from ailora.adapters import presets
from ailora.adapters.config import AILoRAConfig, Role
from ailora.adapters.deferred import peft_config
from ailora.adapters.initialize import get_peft_model
from ailora.adapters.load import load_adapter
from ailora.adapters.optimizer import create_optimizer

__all__ = [
    "AILoRAConfig",
    "Role",
    "create_optimizer",
    "get_peft_model",
    "load_adapter",
    "peft_config",
    "presets",
]
