"""Models, batches and one short life of each method, which several tests look at."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers import PreTrainedModel

import ailora
from ailora.errors import UserError
from ailora.lab.methods import METHODS, Counts, count, load, merge, save
from ailora.lab.settings import RunConfig
from tests.adapters.models import encoder, logits, sentences
from tests.families import FAMILIES, inputs_for

SMALL: dict[str, Any] = {"rank": 4, "vera_rank": 16, "bottleneck": 8}
TASK_TYPES = {"minilm": "SEQ_CLS", "llama": "CAUSAL_LM", "bart": "SEQ_2_SEQ_LM"}
# PEFT imports attrs for CorDA without requiring it.
USABLE = tuple(name for name in METHODS if name != "corda" or find_spec("attr"))
CASES = [
    (family, name)
    for family in TASK_TYPES
    for name in USABLE
    if (family, name) != ("llama", "bitfit")  # has no bias
]
_WORDS = 2000
RATES = {"full": 1e-4, "vera": 3e-2}
MOVES_THE_BASE = ("full", "bitfit")


@cache
def _original(family: str) -> PreTrainedModel:
    if family != "minilm":
        return FAMILIES[family]()
    model = encoder()
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(_WORDS)  # of 30,522: the rest is copied again and again
    return model


def fresh(family: str) -> PreTrainedModel:
    """The pre-trained model again, as ``from_pretrained`` would give it."""
    return copy.deepcopy(_original(family))


def batch_of(family: str) -> dict[str, Tensor]:
    if family == "minilm":
        batch = sentences(labels=True)
        return {**batch, "input_ids": batch["input_ids"] % _WORDS}
    return inputs_for(family, _original(family), labels=True, length=12)


def adapted(family: str, name: str, **fields: Any) -> nn.Module:
    """A fresh model with a method on it, and the same random numbers at each call."""
    torch.manual_seed(0)
    settings = RunConfig(**{**SMALL, **fields})
    return METHODS[name].build(fresh(family), settings, lambda: [batch_of(family)]).eval()


def step(model: nn.Module, batch: dict[str, Tensor], steps: int, lr: float) -> list[float]:
    optimizer = ailora.create_optimizer(model, lr=lr)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def body(model: nn.Module) -> dict[str, Tensor]:
    """What the base model came with, under its own names, less the head."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    added = ("lora_", "vera_", ".houlsby.", "modules_to_save", "original_module", "classifier")
    return {
        name.replace("base_layer.", ""): value.detach().clone()
        for name, value in whole.state_dict().items()
        if not any(part in name for part in added)
    }


@dataclass(frozen=True, kw_only=True)
class Life:
    """What became of a method that was built, trained, saved, loaded, trained on and merged."""

    base: Tensor
    step0: Tensor
    losses: list[float]
    body_before: dict[str, Tensor]
    body_after: dict[str, Tensor]
    counts: Counts
    trained: Tensor
    loaded: Tensor
    loaded_counts: Counts
    loaded_to_train: Tensor
    counts_to_train: Counts
    trained_on: Tensor
    loaded_and_trained_on: Tensor
    merged: Tensor | None


@cache
def life(family: str, name: str) -> Life:
    batch, lr = batch_of(family), RATES.get(name, 3e-3)
    model = adapted(family, name)
    step0, losses = logits(model, batch), step(model, batch, 4, lr)
    trained, after = logits(model, batch), body(model)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        loaded = load(fresh(family), Path(folder))
        again = load(fresh(family), Path(folder), is_trainable=True).eval()
    to_train, counts_to_train = logits(again, batch), count(again)
    counts = count(model)
    for one in (model, again):
        step(one, batch, 2, lr)
    return Life(
        base=logits(_original(family), batch),
        step0=step0,
        losses=losses,
        body_before=body(_original(family)),
        body_after=after,
        counts=counts,
        trained=trained,
        loaded=logits(loaded, batch),
        loaded_counts=count(loaded),
        loaded_to_train=to_train,
        counts_to_train=counts_to_train,
        trained_on=logits(model, batch),
        loaded_and_trained_on=logits(again, batch),
        merged=_merged(loaded, batch),
    )


def _merged(model: nn.Module, batch: dict[str, Tensor]) -> Tensor | None:
    try:
        merged = merge(model)
    except UserError:
        return None
    assert isinstance(merged, PreTrainedModel)
    assert not any("lora" in name or "vera" in name for name, _ in merged.named_parameters())
    return logits(merged.eval(), batch)


def gpt2() -> PreTrainedModel:
    config = hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=40)
    return _seeded(lambda: hf.GPT2LMHeadModel(config))


def bert_qa() -> PreTrainedModel:
    config = hf.BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
    )
    return _seeded(lambda: hf.BertForQuestionAnswering(config))


def _seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()
