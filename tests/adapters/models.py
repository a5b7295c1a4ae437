"""Models, batches and short training loops that the adapter tests share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.factors import cut
from ailora.lab.demo import encoder_dir
from tests.families import FAMILIES, inputs_for

Q0 = "bert.encoder.layer.0.attention.self.query"
V0 = "bert.encoder.layer.0.attention.self.value"


def tiny(dtype: torch.dtype = torch.float64, family: str = "bert") -> PreTrainedModel:
    return FAMILIES[family]().to(dtype)


def batch(model: nn.Module, family: str = "bert", *, labels: bool = True) -> dict[str, Tensor]:
    return inputs_for(family, model, labels=labels)


def encoder(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The embedded MiniLM with a seeded head of two classes, in eval mode."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder_dir(), num_labels=2, dtype=dtype
        )
    transformers_logging.set_verbosity(before)
    return model.eval()


def save_llama(path: Path) -> Path:
    """A two-layer Llama of sizes that can be quantised, and the folder it is saved in."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def sentences(*, labels: bool = False) -> dict[str, Tensor]:
    """Seeded token ids of MiniLM's vocabulary, the last row padded."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1000, 30000, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    ids[-1, -4:], mask[-1, -4:] = 0, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "labels": torch.tensor([0, 1, 1, 0])} if labels else inputs


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).logits


def train(
    model: nn.Module,
    inputs: dict[str, Tensor],
    steps: int,
    optimizer: Optimizer | None = None,
    lr: float = 1e-2,
) -> list[float]:
    """AdamW steps on one batch (eval mode: no dropout); the losses before each step."""
    model.eval()
    optimizer = optimizer or ailora.create_optimizer(model, AdamW, lr=lr)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what is not an adapter's or a head's, under the names of the unwrapped model."""
    return {
        name.removeprefix("base_model.model.").replace("base_layer.", ""): value.detach().clone()
        for name, value in model.state_dict().items()
        if "lora_" not in name and "modules_to_save" not in name
    }


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def factors(model: nn.Module, name: str, adapter: str = "default") -> tuple[Any, Any]:
    layer = model.get_base_model().get_submodule(name)
    return layer.lora_A[adapter], layer.lora_B[adapter]


ROLES = {"q": Role(init="principal", r=3), "v": Role(init="minor", lr_ratio=2)}


def trained(*, anchored: bool = True, dtype: torch.dtype = torch.float64, **fields) -> PeftModel:
    config = AILoRAConfig(
        **{"r": 2, "lora_alpha": 5, "roles": ROLES, "anchored": anchored, **fields}
    )
    model = ailora.get_peft_model(tiny(dtype), config)
    train(model, batch(model), 3)
    return model


@dataclass(frozen=True)
class Found:
    """One projection's factors as trained, its anchors (None where it is plain), and its scale."""

    A: Tensor
    B: Tensor
    A0: Tensor | None
    B0: Tensor | None
    scaling: float
    modules: tuple[Any, Any]


def parts(model: PeftModel, adapter: str = "default") -> dict[str, Found]:
    """By projection (in fused layers with the role), what A' and B' are made of."""
    found = {}
    for name, blocks in model.peft_config[adapter].record.layers.items():
        layer = model.get_base_model().get_submodule(name)
        A, B = layer.lora_A[adapter], layer.lora_B[adapter]
        scaling = layer.scaling[adapter]
        cuts = cut(A.weight.detach(), B.weight.detach(), blocks)
        for block, part in zip(blocks, cuts, strict=True):
            found[block.key(name)] = Found(part.A, part.B, part.A0, part.B0, scaling, (A, B))
    return found


@torch.no_grad()
def move(model: PeftModel, name: str, adapter: str = "default", by: float = 0.1) -> None:
    """Move what trains of one anchored layer at random, as steps of an optimiser would."""
    A, B = factors(model, name, adapter)
    r = A.weight.shape[0] // 2
    A.weight += by * torch.randn_like(A.weight[:r]).repeat(2, 1)
    B.weight[:, :r] += by * torch.randn_like(B.weight[:, :r])


def check_a_start(role: Role, anchored: bool, folder: Path) -> tuple[PeftModel, Tensor]:
    """It begins at the base model, trains, is saved, and comes back as it was.

    Returns:
        The trained model, and its logits.
    """
    config = AILoRAConfig(r=3, anchored=anchored, roles={"q": role, "v": role})
    model = ailora.get_peft_model(tiny(), config)
    inputs = batch(model)
    base = logits(tiny(), inputs)
    torch.testing.assert_close(logits(model, inputs), base, rtol=0, atol=1e-12)
    train(model, inputs, 2)
    moved = logits(model, inputs)
    assert not torch.allclose(moved, base, rtol=0, atol=1e-6)
    model.save_pretrained(folder)
    again = ailora.load_adapter(tiny(), folder, is_trainable=True)
    torch.testing.assert_close(logits(again, inputs), moved, rtol=0, atol=1e-12)
    assert again.peft_config["default"].record.origin.roles["q"] == role
    return model, moved
