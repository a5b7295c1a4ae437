"""CorDA (Yang et al. 2024): factors from the weight as the task's inputs see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from peft import PeftModel
from peft.tuners.lora.config import CordaConfig
from torch import nn

from ailora.errors import UserError
from ailora.lab.methods.peft_starts import batches_of, peft_config, rows_of, start_from
from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, whole_layers
from ailora.lab.settings import RunConfig

_EIGENS = "eigens"


def corda(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's CorDA on q and v, instruction-previewed mode, the base left untouched.

    The covariance of each layer's inputs is of the batches' rows one at a time, as PEFT's hook
    needs them, without padding.

    Raises:
        UserError: No batches, no package attrs, or q and v are parts of a fused layer.
    """
    check_no_ranks(settings, "corda")
    preprocess_corda = _preprocess()
    found = whole_layers(model, "corda")
    data = batches_of(model, batches, "corda")
    config = peft_config(
        model, found, settings, "corda", corda_config=CordaConfig(corda_method="ipm", verbose=False)
    )

    def run() -> None:
        for batch in data:
            for row in rows_of(batch):
                model(**row)

    mode = model.training
    try:
        preprocess_corda(model, config, run)
        return start_from(model, found, config, settings)
    finally:
        model.train(mode)
        for projection in found:
            if hasattr(projection.module, _EIGENS):
                delattr(projection.module, _EIGENS)


def _preprocess() -> Callable[..., None]:
    """PEFT's preparation, in a module that imports attrs, which PEFT does not require."""
    try:
        from peft.tuners.lora.corda import preprocess_corda  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UserError(
            f"method 'corda' needs the package attrs ({error}): pip install attrs"
        ) from error
    return cast(Callable[..., None], preprocess_corda)
