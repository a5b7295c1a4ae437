"""A method's parameters on a model that exists on the meta device alone: no weight is needed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from ailora.lab.methods.counting.counts import Counts, count
from ailora.lab.methods.settings import Settings
from ailora.lab.methods.table import Method


def count_without_weights(
    config: Any, method: Method, settings: Settings, labels: int = 2
) -> Counts:
    """Parameters of a method on a model.

    Where a start reads weights or data, a LoRA of the same shapes is counted; EVA may spread the
    same sum of ranks over other layers.

    Args:
        config: A transformers config.
        method: Of `ailora.lab.methods.METHODS`.
        settings: The method's; its task type is the model's.
        labels: Classes, of models that get a classifier.

    Raises:
        UserError: The method does not fit the model.
    """
    with torch.device("meta"):
        model = empty_model(config, labels)
        adapted = (method.sized_as or method.build)(model, settings, None)
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
