"""Adapters: what they start from, and how they are wrapped, saved, loaded and optimised."""

from ailora.adapters import presets, step_hooks, wrap
from ailora.adapters.config import AILoRAConfig, Role
from ailora.adapters.load import load_adapter
from ailora.adapters.optimizer import create_optimizer
from ailora.adapters.role_scalars import log_roles
from ailora.adapters.wrap import get_peft_model

wrap.step_in()
step_hooks.watch()

__all__ = [
    "AILoRAConfig",
    "Role",
    "create_optimizer",
    "get_peft_model",
    "load_adapter",
    "log_roles",
    "presets",
]
