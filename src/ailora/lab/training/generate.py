"""Texts from a model: many prompts at once, with the key-value cache, in the order given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from ailora.lab.training.settings import at_least_one

logger = logging.getLogger(__name__)

Tokens = Sequence[int]
OnGenerated = Callable[[int, int], None]  # prompts answered, prompts in all


@dataclass(frozen=True, kw_only=True)
class Search:
    """How an answer is looked for; the same prompts always give the same texts.

    Attributes:
        max_new_tokens: Tokens of an answer at most.
        num_beams: 1 is greedy.
        stop: Strings that end an answer and are not part of it, beside the end token.
        batch_size: Prompts answered at once, at most.
        batch_tokens: Tokens held at once, at most (unless one prompt alone is more): prompts
            padded to the longest, each with room for its answer, times the beams. It bounds the
            cache of keys and values.

    Raises:
        UserError: A count below 1.
    """

    max_new_tokens: int = 256
    num_beams: int = 1
    stop: tuple[str, ...] = ()
    batch_size: int = 32
    batch_tokens: int = 32_768

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "batch_size", "batch_tokens"):
            at_least_one(name, getattr(self, name))


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Tokens],
    search: Search,
    *,
    on_progress: OnGenerated = lambda done, of: None,
) -> list[str]:
    """Answer each prompt; what it answers does not depend on the prompts beside it.

    Prompts of like length go together, the longest first; a decoder's are padded on the left and
    their positions counted without the padding, an encoder-decoder's on the right. In fp32 the
    texts are those of one prompt at a time, up to ties that rounding breaks. Settings of the
    model's own generation config that do not sample (say, BART's ``no_repeat_ngram_size``) hold.

    Args:
        model: A transformers model that generates, or PEFT's around one. Its mode is restored.
        tokenizer: Its tokeniser, with a padding and an end token.
        prompts: Token ids, at least one each: of the text that a decoder continues, or that an
            encoder reads.
        search: How far and how wide.
        on_progress: Called after each batch.

    Returns:
        A text for each prompt, in their order: what was generated up to the end token or the
        first stop string, without special tokens.
    """
    settings = _settings(model, tokenizer, search)
    left = not model.config.is_encoder_decoder
    texts = [""] * len(prompts)
    training, began, done = model.training, time.perf_counter(), 0
    model.eval()
    try:
        for rows in batches([len(prompt) for prompt in prompts], search):
            batch = padded([prompts[row] for row in rows], int(tokenizer.pad_token_id), left=left)
            for row, text in zip(
                rows, _answers(model, tokenizer, batch, settings, search), strict=True
            ):
                texts[row] = text
            done += len(rows)
            on_progress(done, len(prompts))
            logger.debug("%d of %d in %.1f s", done, len(prompts), time.perf_counter() - began)
    finally:
        model.train(training)
    return texts


def batches(lengths: Sequence[int], search: Search) -> Iterator[list[int]]:
    """Row numbers of each batch: the longest first, so that what does not fit fails at once."""
    waiting = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while waiting:
        a_row = (lengths[waiting[0]] + search.max_new_tokens) * search.num_beams
        count = min(search.batch_size, max(1, search.batch_tokens // a_row))
        yield waiting[:count]
        waiting = waiting[count:]


def padded(rows: Sequence[Tokens], pad: int, *, left: bool) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, int64 (rows, longest), padded on one side."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        span = slice(longest - len(row), None) if left else slice(None, len(row))
        ids[index, span] = torch.tensor(row)
        mask[index, span] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch: dict[str, Tensor],
    settings: GenerationConfig,
    search: Search,
) -> list[str]:
    found = model.generate(
        **{name: tensor.to(model.device) for name, tensor in batch.items()},
        generation_config=settings,
        # Looking for strings needs the vocabulary as text.
        tokenizer=tokenizer if search.stop else None,
    )
    # An encoder-decoder's answer begins with one token that is no part of it (BART's: an end).
    prompt = 1 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    answers = [_before(row, settings.eos_token_id) for row in found[:, prompt:].tolist()]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [up_to(text, search.stop) for text in texts]


def _before(tokens: list[int], ends: list[int]) -> list[int]:
    """Not every end token of a model is special to its tokeniser."""
    return tokens[: next((at for at, token in enumerate(tokens) if token in ends), None)]


def up_to(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings in it."""
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


def _settings(model: Any, tokenizer: PreTrainedTokenizerBase, search: Search) -> GenerationConfig:
    """The model's own settings with the search's, and nothing that draws at random."""
    settings = deepcopy(model.generation_config)
    settings.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    settings.update(
        max_length=None,
        max_new_tokens=search.max_new_tokens,
        num_beams=search.num_beams,
        stop_strings=list(search.stop) or None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=_ends(settings.eos_token_id, tokenizer.eos_token_id),
        use_cache=True,
    )
    return settings


def _ends(*ids: int | list[int] | None) -> list[int]:
    """Every end token: those of the model's settings, and the tokeniser's, which is trained on."""
    found: list[int] = []
    for value in ids:
        found += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(found))
