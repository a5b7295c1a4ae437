"""Whether a run that goes on is still the run that began: the model's weights, the packages."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ailora.errors import MALFORMED, UserError
from ailora.files import parse_json, read_text

logger = logging.getLogger(__name__)

_LOOKED_AT = 4096  # values of each tensor
_DIFFERS = ("cpu", "cores", "threads", "platform")  # the machine's, and no version


def weights_of(model: nn.Module) -> str:
    """A short name of a loaded model's weights: a hash of 4096 values of each, evenly spread.

    Any further training moves all of them. Of the body alone, since a new head is drawn. Empty for
    a model whose weights are elsewhere (on the meta device).
    """
    body = getattr(model, getattr(model, "base_model_prefix", "") or "", model)
    digest = hashlib.sha256()
    for name, tensor in body.state_dict().items():
        if type(tensor) is not torch.Tensor:  # a quantised one has no values to look at
            continue
        if tensor.is_meta:
            return ""
        step = max(1, tensor.numel() // _LOOKED_AT)
        some = tensor.detach().reshape(-1)[::step].cpu().contiguous()
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_same(folder: Path, weights: str, environment: Mapping[str, Any]) -> None:
    """Look whether a run's model and packages are those that it began with.

    Args:
        folder: The run's. One that has not written them down goes on.
        weights: What `weights_of` says now.
        environment: What `ailora.lab.training.machine.environment` says now.

    Raises:
        UserError: The model has other weights: half the run would be of each. Other packages are
            warned of, since their results differ by rounding.
    """
    try:
        began = parse_json(read_text(folder / "config.json"))
        before, packages = began.get("weights"), dict(began.get("environment") or {})
    except (OSError, *MALFORMED):
        return
    if before and weights and before != weights:
        raise UserError(
            f"{folder}: began on other weights of its model, which were changed since; give it "
            "those again, or remove the folder to do the run anew"
        )
    changed = [
        f"{name} {packages[name]}, now {now}"
        for name, now in environment.items()
        if name not in _DIFFERS and packages.get(name, now) != now
    ]
    if changed:
        logger.warning(
            "%s: goes on with other versions than it began with (%s): its result may differ by "
            "rounding from that of one version",
            folder,
            "; ".join(changed),
        )
