"""Adapted tiny models, and changes that are planted rather than learned."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers import PreTrainedModel

from ailora.lab.analysis.changes import Change, changes_between
from ailora.lab.methods import METHODS
from ailora.lab.settings import RunConfig
from tests.adapters.models import batch, tiny, train

LAYER = "bert.encoder.layer.{}.attention.self.{}"
_VOCABULARY = 64


def adapted(name: str, *, steps: int = 3, **fields: Any) -> tuple[PreTrainedModel, nn.Module]:
    """The tiny BERT in float64, and a copy that a method has trained on a batch."""
    base = tiny()
    torch.manual_seed(0)
    settings = RunConfig(rank=2, vera_rank=8, **fields)
    model = METHODS[name].build(copy.deepcopy(base), settings, None)
    train(model, batch(model), steps, lr=3e-2)
    return base, model


def planted(change: Tensor, name: str = LAYER.format(0, "query")) -> list[Change]:
    """Changes between the tiny BERT and a copy with one weight moved."""
    before = tiny()
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.get_submodule(name).weight.add_(change)
    return changes_between(before, after)


def of(rows: list[Any], name: str = LAYER.format(0, "query")) -> Any:
    """The row of one projection."""
    (found,) = [row for row in rows if row.name == name.removeprefix("bert.")]
    return found


def _build(cls: Any, config: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(config).eval()


def masked_lm(vocabulary: int = _VOCABULARY) -> PreTrainedModel:
    return _build(hf.BertForMaskedLM, _bert(vocabulary))


def classifier_on(language_model: PreTrainedModel) -> PreTrainedModel:
    """A classifier with the same body, as tuning starts from one."""
    model = _build(hf.BertForSequenceClassification, language_model.config)
    model.bert.load_state_dict(language_model.bert.state_dict(), strict=False)
    return model


def _bert(vocabulary: int) -> hf.BertConfig:
    return hf.BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=160,
        initializer_range=0.2,
        pad_token_id=0,
    )
