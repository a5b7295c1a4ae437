"""How many parameters a method trains, of a model in memory or of one that is only a config."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from ailora.adapters.factors import Factor
from ailora.lab.methods.table import Method, method_named
from ailora.lab.methods.targets import head_names
from ailora.lab.settings import RunConfig
from ailora.roles import unwrapped

_HEAD_OF_PEFT = ".modules_to_save."
_FROZEN_COPY = ".original_module."


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of parameters; shared ones count once.

    Attributes:
        adapter: Trainable ones outside the task's head; the frozen halves of anchored factors are
            none.
        head: Trainable ones of the head.
        all: Every parameter that the model computes with, frozen ones too.
    """

    adapter: int
    head: int
    all: int

    @property
    def trainable(self) -> int:
        """Adapter and head together."""
        return self.adapter + self.head


def count(model: nn.Module) -> Counts:
    """The parameters of a model that a method has adapted."""
    heads = {f"{name}." for name in head_names(model)}
    adapter = head = everything = 0
    trained = {
        id(factor.weight): factor.trained
        for factor in unwrapped(model).modules()
        if isinstance(factor, Factor)
    }
    for name, parameter in unwrapped(model).named_parameters():
        if _FROZEN_COPY in name:  # PEFT keeps the head's start beside the head
            continue
        number = trained.get(id(parameter), parameter.numel())
        everything += number
        if not parameter.requires_grad:
            continue
        if _HEAD_OF_PEFT in name or any(name.startswith(start) for start in heads):
            head += number
        else:
            adapter += number
    return Counts(adapter=adapter, head=head, all=everything)


def count_without_weights(
    config: Any, method: Method, settings: RunConfig, labels: int = 2
) -> Counts:
    """Parameters of a method on a model.

    Where a start reads weights or data, a LoRA of the same shapes is counted; EVA may spread the
    same sum of ranks over other layers.

    Args:
        config: A transformers config.
        method: A name in `ailora.lab.methods.METHODS`.
        settings: The method's; its task type is the model's.
        labels: Number of classes, for models that get a classifier.

    Raises:
        UserError: The method does not fit the model.
    """
    sized = method_named(method.sized_as or method.name)
    with torch.device("meta"):
        model = empty_model(config, labels)
        adapted = sized.build(model, settings, None)
    return count(adapted)


def empty_model(config: Any, labels: int) -> PreTrainedModel:
    """The model without weights, on the current device.

    Encoder-decoders write text, decoders continue it, and everything else classifies.
    """
    config = copy.deepcopy(config)
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM.from_config(config)
    if _is_decoder(config):
        return AutoModelForCausalLM.from_config(config)
    config.num_labels = labels
    return AutoModelForSequenceClassification.from_config(config)


def _is_decoder(config: Any) -> bool:
    """A language model and nothing else: BERT's classes have one too, but fill in masks first."""
    kind = type(config)
    causal, masked = AutoModelForCausalLM._model_mapping, AutoModelForMaskedLM._model_mapping
    return kind in causal and kind not in masked
