"""Low-rank adapters that start from a pre-trained model's own spectrum, per role of the weight.

>>> import ailora
>>> config = ailora.AILoRAConfig(r=8)
>>> config.roles["q"].init, config.roles["v"].init, config.roles["v"].lr_ratio
('principal', 'minor', 2.0)

``peft.get_peft_model(model, config)`` is then a model like any other of PEFT's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ailora.adapters import (
        AILoRAConfig,
        Role,
        create_optimizer,
        get_peft_model,
        load_adapter,
        log_roles,
        presets,
    )
    from ailora.linalg import Triplets, decompose
    from ailora.roles import inspect

__all__ = [
    "AILoRAConfig",
    "Role",
    "Triplets",
    "create_optimizer",
    "decompose",
    "get_peft_model",
    "inspect",
    "load_adapter",
    "log_roles",
    "presets",
]

__version__ = "0.1.0"

_HOME = {
    "decompose": "ailora.linalg",
    "Triplets": "ailora.linalg",
    "inspect": "ailora.roles",
}


def __getattr__(name: str) -> Any:
    """Import torch, transformers and PEFT only when something that needs them is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'ailora' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME.get(name, "ailora.adapters")), name)
    except ImportError as error:
        from ailora.versions import misfit_of  # noqa: PLC0415 - nothing is imported before it is used

        found = misfit_of(error)
        if found is None:
            raise
        raise found from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
