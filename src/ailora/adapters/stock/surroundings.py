"""What a process runs under that cannot train anchored factors: refused before it begins."""

from __future__ import annotations

import os
import sys

from transformers.integrations import is_deepspeed_zero3_enabled

from ailora.adapters.config import AILoRAConfig
from ailora.adapters.factors.sharding import FSDP1, ZERO3
from ailora.errors import UserError

UNSLOTH = (
    "Unsloth is imported: its kernels take LoRA weights past the layers that anchor them; train "
    "the files of `ailora init` with it, or leave Unsloth out"
)


def check_surroundings(config: AILoRAConfig) -> None:
    """Raise a UserError where these factors would train or be saved wrongly.

    As ``accelerate launch`` and DeepSpeed's integration in transformers announce themselves.
    Folded factors are plain LoRA layers, for which nothing here matters.
    """
    if not any(config.is_anchored(role) for role in config.roles):
        return
    if fsdp_version() == 1:
        raise UserError(FSDP1)
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
    if is_deepspeed_zero3_enabled() or (_is_on("ACCELERATE_USE_DEEPSPEED") and stage == "3"):
        raise UserError(ZERO3)
    if "unsloth" in sys.modules:
        raise UserError(UNSLOTH)


def fsdp_version() -> int | None:
    """Of the FSDP that ``accelerate launch`` set up for this process; None where it did not."""
    if not _is_on("ACCELERATE_USE_FSDP"):
        return None
    return int(os.environ.get("FSDP_VERSION", "1"))


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
