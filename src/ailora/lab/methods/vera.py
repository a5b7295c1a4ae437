"""VeRA (Kopiczko et al. 2023): learned scales of one random pair of matrices for all layers."""

from __future__ import annotations

import peft
from peft import PeftModel, VeraConfig
from torch import nn

from ailora.lab.methods.table import Batches
from ailora.lab.methods.targets import check_no_ranks, common_fields, whole_layers
from ailora.lab.settings import RunConfig


def vera(model: nn.Module, settings: RunConfig, batches: Batches | None = None) -> PeftModel:
    """PEFT's VeRA on q and v at rank ``vera_rank``.

    The shared A (rank x widest input) and B (tallest output x rank) are frozen and saved along;
    layers of other shapes, as the values of grouped-query attention, take their first rows and
    columns. Trained are a vector of the rank (0.1 at the start) and one of the outputs (0) a layer.

    Raises:
        UserError: The model's q and v are parts of a fused layer.
    """
    check_no_ranks(settings, "vera")
    found = whole_layers(model, "vera")
    config = VeraConfig(
        r=settings.vera_rank,
        vera_dropout=settings.lora_dropout,
        projection_prng_key=settings.seed,
        **common_fields(model, found),
    )
    return peft.get_peft_model(model, config)
