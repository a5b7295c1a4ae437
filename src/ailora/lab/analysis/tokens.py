"""Batches of tokens with the positions at which two models' predictions are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from ailora.errors import UserError

MASKED = 0.15  # Devlin et al. 2019


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBatch:
    """What a model reads, and where its predictions count.

    Attributes:
        inputs: ``input_ids``, ``attention_mask`` and what else the tokeniser gives, (b, t).
        counted: (b, t) bool: positions whose logits are compared; never padding.
    """

    inputs: dict[str, Tensor]
    counted: Tensor


def next_token_batches(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 128,
    batch_size: int = 16,
) -> Iterator[TokenBatch]:
    """For decoders: each position that has a real token after it.

    Args:
        texts: One a row.
        tokenizer: With a padding token; it may pad on either side.
        max_length: Tokens kept of a row.
        batch_size: Rows a batch.
    """
    for inputs in _encoded(texts, tokenizer, max_length, batch_size):
        real = inputs["attention_mask"].bool()
        counted = torch.zeros_like(real)
        counted[:, :-1] = real[:, :-1] & real[:, 1:]
        yield TokenBatch(inputs=inputs, counted=counted)


def masked_batches(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    max_length: int = 128,
    batch_size: int = 16,
) -> Iterator[TokenBatch]:
    """For encoders: 15 % of the ordinary tokens, 80 % of them masked, 10 % random, 10 % left.

    That is BERT's own training (Devlin et al. 2019). The draw is transformers' and seeded: the
    same texts and seed give the same batches, and the global random state is left alone.

    Args:
        texts: One a row.
        tokenizer: With a mask token.
        seed: Of what is masked.
        max_length: Tokens kept of a row.
        batch_size: Rows a batch.

    Raises:
        UserError: The tokeniser has no mask token.
    """
    if tokenizer.mask_token is None:
        raise UserError(
            "the model's tokenizer has no mask token; masked tokens cannot be predicted"
        )
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=MASKED)
    for index, inputs in enumerate(_encoded(texts, tokenizer, max_length, batch_size)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1_000_003 + index)
            ids, labels = collate.torch_mask_tokens(inputs["input_ids"].clone())
        counted = (labels != -100) & inputs["attention_mask"].bool()
        yield TokenBatch(inputs={**inputs, "input_ids": ids}, counted=counted)


def _encoded(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(texts), batch_size):
        rows = list(texts[start : start + batch_size])
        yield dict(
            tokenizer(
                rows, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
        )
