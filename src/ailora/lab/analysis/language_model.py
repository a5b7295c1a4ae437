"""The base model with the head that it predicts tokens with, and that head on a tuned body."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ailora.errors import UserError
from ailora.lab.analysis.tokens import TokenBatch, masked_batches, next_token_batches
from ailora.lab.training.model import load_pretrained
from ailora.roles import unwrapped


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A pre-trained model that predicts tokens.

    Attributes:
        model: With its own head.
        tokenizer: Its own.
        masked: Whether it predicts masked tokens (encoders) rather than the next one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    masked: bool

    def batches(self, texts: Sequence[str], *, seed: int = 0) -> Iterator[TokenBatch]:
        """Batches of texts with the positions that it predicts; the seed is of the masks."""
        if self.masked:
            return masked_batches(texts, self.tokenizer, seed=seed)
        return next_token_batches(texts, self.tokenizer)


def load_language_model(name: str) -> LanguageModel:
    """Load a model with the head it was pre-trained with.

    Args:
        name: ``"demo-decoder"``, a folder or a hub name.

    Raises:
        UserError: No such model; an encoder-decoder; or its files have no such head, as those of
            sentence encoders (``"demo"``), which `hidden_drift` is for.
    """
    model, tokenizer = load_pretrained(name, _AutoWithItsHead, seed=0)
    return LanguageModel(model=model.eval(), tokenizer=tokenizer, masked=_is_masked(model.config))


def on_tuned_body(language_model: PreTrainedModel, tuned: nn.Module) -> nn.Module:
    """The tuned model with logits over tokens.

    Args:
        language_model: The base, with its head; it is not changed.
        tuned: Of the same architecture, with any head, wrapped by PEFT or not.

    Returns:
        The tuned model itself if it predicts tokens, else a copy of the base's head on the tuned
        model's body, which is shared and not copied.

    Raises:
        UserError: The two are not of one architecture.
    """
    inner: Any = unwrapped(tuned)
    if inner.config.model_type != language_model.config.model_type:
        raise UserError(
            f"the tuned model is a {inner.config.model_type} and the base a "
            f"{language_model.config.model_type}; give the base that it was tuned from"
        )
    if isinstance(inner, type(language_model)):
        return tuned
    prefix = language_model.base_model_prefix
    body = getattr(language_model, prefix)
    try:
        setattr(language_model, prefix, nn.Identity())  # not copied, only to be replaced
        headed: nn.Module = copy.deepcopy(language_model)
    finally:
        setattr(language_model, prefix, body)
    setattr(headed, prefix, inner.base_model)
    return headed


class _AutoWithItsHead:
    """Chooses between transformers' auto classes, and refuses a head that would be random."""

    @staticmethod
    def from_pretrained(path: str, **options: Any) -> Any:
        config = options["config"]
        if config.is_encoder_decoder:
            raise UserError("forgetting of encoder-decoders is not measured here")
        auto: Any = AutoModelForMaskedLM if _is_masked(config) else AutoModelForCausalLM
        model, loaded = auto.from_pretrained(path, **options)
        if loaded["missing_keys"]:
            raise UserError(
                "the base model's files have no head that predicts tokens "
                f"({min(loaded['missing_keys'])} is missing); give one with a head, or compare "
                "hidden states alone"
            )
        return model, loaded


def _is_masked(config: Any) -> bool:
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
