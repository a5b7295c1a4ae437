"""Base models with the head of a task: loaded by name, checked, and asked."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from ailora.errors import UserError
from ailora.pretrained import SAFE, check_size, named_in_errors, resolve

logger = logging.getLogger(__name__)

# RoBERTa and its kin number a token's place from the padding token's id on: 514 places, 512 tokens.
_AFTER_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke"),
    *("markuplm", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
    "xmod",
)


def load_pretrained(
    name: str, model_class: Any, *, seed: int, **head: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a pre-trained model with the head of a task, and its tokeniser.

    Weights are read from safetensors alone and no code of the model's folder is run.

    Args:
        name: ``"demo"``, ``"demo-decoder"``, a local folder or a hub name.
        model_class: One of transformers' ``AutoModelFor...``.
        seed: Seed of a new head's start, which all methods of that seed share.
        head: Fields of the model's config that decide its head.

    Raises:
        UserError: No such model, or one that cannot be loaded so.
    """
    config, tokenizer = load_tokenizer(name, **head)
    with named_in_errors(name):
        path = resolve(name)
        check_size(path)
        set_seed(seed)
        model, loaded = model_class.from_pretrained(
            path,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **SAFE,
        )
        _check_loaded(model, loaded)
    _give_padding(model, tokenizer)
    return model, tokenizer


def load_tokenizer(name: str, **head: Any) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Load a model's config and tokeniser, and none of its weights.

    Args:
        name: As for `load_pretrained`.
        head: Fields of the config that decide the model's head.

    Raises:
        UserError: No such model, or its tokeniser knows no words.
    """
    path = resolve(name)
    with named_in_errors(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **head)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        _check_knows_words(tokenizer)
    return config, tokenizer


def _check_knows_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise for a folder without tokenizer files, of which transformers makes an empty one."""
    words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    if len(words) < 2:  # T5's has a sign for a space
        raise ValueError(
            "its tokenizer knows no words (there is no tokenizer.json or vocabulary beside the "
            "weights); save the tokenizer into that folder"
        )


def check_length(
    max_length: int, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise a UserError if rows of ``max_length`` tokens are longer than the model can read."""
    longest = min(tokenizer.model_max_length, _positions(config))
    if max_length > longest:
        raise UserError(
            f"max_length={max_length}: this model reads {longest} tokens; give that or fewer"
        )


def _positions(config: PretrainedConfig) -> float:
    """Tokens that the model has places for; infinite where it counts none."""
    places: int | None = getattr(config, "max_position_embeddings", None)
    if places is None:
        return math.inf
    return places - (config.pad_token_id + 1 if config.model_type in _AFTER_PADDING else 0)


@torch.no_grad()
def outputs_on(model: nn.Module, batch: Any) -> Tensor:
    """What a model computes for one padded batch in evaluation mode; its mode is restored.

    Returns:
        ``logits``, (rows, classes) or (rows, tokens, vocabulary); or start and end logits one
        after the other, (2 * rows, tokens). On the processor.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = model(**{name: value.to(device) for name, value in batch.items()})
    model.train(training)
    if "logits" in found:
        logits: Tensor = found.logits
        return logits.cpu()
    return torch.cat([found.start_logits, found.end_logits]).cpu()


def _check_loaded(model: PreTrainedModel, loaded: dict[str, Any]) -> None:
    """Refuse a body of random weights, which would train without complaint; a head may be new."""
    body = f"{model.base_model_prefix}."
    misshapen = sorted(str(key[0]) for key in loaded["mismatched_keys"] if key[0].startswith(body))
    if misshapen:
        raise ValueError(f"{misshapen[0]} has another shape than its config.json says")
    missing = sorted(key for key in loaded["missing_keys"] if key.startswith(body))
    if len(missing) == sum(key.startswith(body) for key in model.state_dict()):
        raise ValueError(f"its file has none of the weights of a {model.config.model_type}")
    if missing:
        logger.warning("%d weights are not in the file and start anew: %s", len(missing), missing)


def _give_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Decoders without a padding token pad with their end token, and read the last real one."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError("the model's tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
