"""Adapters and models that the tests of files share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.checkpoints.models import tiny
from tests.families import inputs_for


def loaded(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float64) -> nn.Module:
    """A saved tiny model, as a user loads it."""
    kind = (
        AutoModelForSequenceClassification
        if family in ("bert", "distilbert")
        else AutoModelForCausalLM
    )
    return kind.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def logits(model: nn.Module, family: str = "llama") -> Tensor:
    inputs: Mapping[str, Tensor] = inputs_for(family, model)
    return model(**inputs).logits.double()


def with_adapter(
    base: Path, adapter: Path, family: str = "llama", dtype: torch.dtype = torch.float64
) -> nn.Module:
    """Stock PEFT's own reading of a base model and an adapter."""
    return PeftModel.from_pretrained(loaded(base, family, dtype), str(adapter)).eval()


def perturb(model: nn.Module, seed: int = 1, size: float = 0.1) -> None:
    """Move every trainable parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((size * noise).to(parameter))


def stock_adapter(folder: Path, family: str = "llama", **fields: object) -> PeftModel:
    """Save a stock LoRA adapter of a tiny model, trained a little; returns the model."""
    targets = {"gpt2": ["c_attn", "c_proj"], "bert": ["query", "value", "dense"]}
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": targets.get(family, ["q_proj", "v_proj", "down_proj"]),
        **fields,
    }
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny(family), LoraConfig(**settings)).eval()
    perturb(model)
    model.save_pretrained(folder)
    return model
