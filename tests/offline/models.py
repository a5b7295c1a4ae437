"""Adapters and models that the tests of files share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ailora.adapters.factors import Factor
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
    """Move every trainable parameter, as training would: of our factors what has a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            step = noise.to(parameter)
            if isinstance(module, Factor):
                eye = torch.eye(module.in_features).to(parameter)
                (step,) = torch.autograd.grad((module(eye) * step.T).sum(), parameter)
            with torch.no_grad():
                parameter.add_(size * step)


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


SAVED_BY_0_1_0 = Path(__file__).parents[1] / "adapters" / "saved_by" / "v0_1_0"


def saved_by_0_1_0(kind: str) -> tuple[Path, Path, Tensor]:
    """An adapter that version 0.1.0 saved, its base model, and its logits of `logits_of`."""
    base = SAVED_BY_0_1_0 / "bases" / ("gpt2" if kind.startswith("fused") else "llama")
    return SAVED_BY_0_1_0 / kind, base, load_file(SAVED_BY_0_1_0 / "expected.safetensors")[kind]


@torch.no_grad()
def logits_of(base: Path, adapter: Path | None = None) -> Tensor:
    """Of the tokens that version 0.1.0's files were made with."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    found: Tensor = model(input_ids=torch.arange(3, 21).view(2, 9)).logits
    return found
