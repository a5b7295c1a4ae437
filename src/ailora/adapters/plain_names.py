"""Saved factors have the names of a model without wrappers, whoever wrapped it in training.

torch.compile, FSDP version 1 and DistributedDataParallel put their own name into those of the
weights. PEFT would save what no other model finds, or nothing at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ailora.adapters.record import PREFIX, StartedConfig

_COMPILED = "_orig_mod"
_WRAPPERS = (_COMPILED, "_fsdp_wrapped_module")
_PARALLEL = "module."
_saving = threading.RLock()


@contextmanager
def plainly_named(model: Any, options: dict[str, Any]) -> Iterator[None]:
    """Inside, layers that torch.compile wrapped are in their wrappers' places.

    Nothing happens to a model of which PEFT alone has started all adapters. One thread is inside at
    a time: another would take what is put in place for the file for the model's own, and leave it.

    Args:
        model: Whose ``save_pretrained`` is about to be called.
        options: Its keyword arguments; a ``state_dict`` among them gets plain names.
    """
    with _saving:
        if not any(isinstance(config, StartedConfig) for config in model.peft_config.values()):
            yield
            return
        if options.get("state_dict") is not None:
            options["state_dict"] = _plain(options["state_dict"])
        wrapped = [
            (parent, name, child)
            for parent in model.modules()
            for name, child in parent._modules.items()
            if child is not None and _COMPILED in child._modules
        ]
        for parent, name, child in wrapped:
            parent._modules[name] = child._modules[_COMPILED]
        try:
            yield
        finally:
            for parent, name, child in wrapped:
                parent._modules[name] = child


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for key, weight in state.items():
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if name.startswith(_PARALLEL + PREFIX):
            name = name.removeprefix(_PARALLEL)
        found[name] = weight
    return found


__all__ = ["plainly_named"]
