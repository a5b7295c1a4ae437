"""Generating text: sources as the tokens of a prompt, and many prompts answered at once."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from ailora.errors import UserError

logger = logging.getLogger(__name__)

IGNORED = -100  # a label that the loss leaves out
Tokens = Sequence[int]
OnGenerated = Callable[[int, int], None]  # prompts answered, prompts in all


class Uncut(NamedTuple):
    """Tokens of each row's prompt and answer, and whether a prompt is cut to learn or to answer."""

    prompt: list[int]
    answer: list[int]
    cut_to_learn: list[bool]
    cut_to_answer: list[bool]


class Prompts(ABC):
    """What a model reads of a row; a source that is too long loses its end."""

    @abstractmethod
    def prompt(self, source: str) -> list[int]:
        """Tokens that an answer is generated from."""

    @abstractmethod
    def example(self, source: str, target: str) -> dict[str, list[int]]:
        """Columns ``input_ids``, ``attention_mask`` and ``labels`` of a row to learn from."""

    @abstractmethod
    def lengths(self, sources: list[str], targets: list[str]) -> Uncut:
        """Count the tokens of rows before anything is cut."""


class EncoderPrompts(Prompts):
    """For an encoder-decoder: the encoder reads the source, the decoder writes the target.

    Args:
        tokenizer: The model's tokeniser.
        max_length: Tokens of a source, special tokens among them; targets stay whole.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def prompt(self, source: str) -> list[int]:
        """The source with the tokeniser's special tokens."""
        ids: list[int] = self.tokenizer(source, truncation=True, max_length=self.max_length)[
            "input_ids"
        ]
        return ids

    def example(self, source: str, target: str) -> dict[str, list[int]]:
        """Source and target; the model itself shifts the labels to what its decoder reads."""
        ids = self.prompt(source)
        labels = self.tokenizer(text_target=target)["input_ids"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    def lengths(self, sources: list[str], targets: list[str]) -> Uncut:
        """Tokens of source and target, each with its special tokens."""
        prompt = list(map(len, self.tokenizer(sources)["input_ids"]))
        answer = list(map(len, self.tokenizer(text_target=targets)["input_ids"]))
        cut = [tokens > self.max_length for tokens in prompt]
        return Uncut(prompt, answer, cut, cut)


class DecoderPrompts(Prompts):
    """For a decoder: the source in a template, then the target and the end token.

    Prompt and target are tokenised apart and joined, so that training sees the very tokens that
    generating starts from, whatever the tokeniser would merge across the border. Only the source
    is ever cut.

    Args:
        template: Text with ``{source}`` once.
        tokenizer: The model's tokeniser.
        max_length: Tokens of prompt, target and end token in training; of the prompt in generating.
        on_answer: Whether the loss leaves the prompt out.
        max_source: Tokens of the source alone; None for what the rest leaves.

    Raises:
        UserError: The template does not hold ``{source}`` once.
    """

    def __init__(
        self,
        template: str,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        on_answer: bool = True,
        max_source: int | None = None,
    ) -> None:
        if template.count("{source}") != 1:
            raise UserError(f"template {template!r}: must hold {{source}} once")
        self.before, self.after = template.split("{source}")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.on_answer = on_answer
        self.max_source = max_source
        start = tokenizer.bos_token_id
        # Of the special tokens a tokeniser adds, a decoder's prompt has the first alone.
        self.start = [start] if start in tokenizer("")["input_ids"][:1] else []

    def prompt(self, source: str) -> list[int]:
        """The filled template.

        Raises:
            UserError: No room for any of the source.
        """
        return self._within(source, self.max_length)

    def example(self, source: str, target: str) -> dict[str, list[int]]:
        """Prompt and target; the labels are their tokens, -100 where the loss leaves them out.

        Raises:
            UserError: The target leaves no room for any of the source.
        """
        answer = [*self._tokens(target), self.tokenizer.eos_token_id]
        prompt = self._within(source, self.max_length - len(answer))
        hidden = [IGNORED] * len(prompt) if self.on_answer else prompt
        ids = prompt + answer
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": hidden + answer}

    def lengths(self, sources: list[str], targets: list[str]) -> Uncut:
        """Tokens of the filled template with the start, and of the target with the end token."""
        filled = [self.before + source + self.after for source in sources]
        prompt = [len(self.start) + count for count in self._counts(filled)]
        answer = [count + 1 for count in self._counts(targets)]
        over = [False] * len(sources)
        if self.max_source is not None:
            over = [count > self.max_source for count in self._counts(sources)]
        most = self.max_length
        return Uncut(
            prompt,
            answer,
            [o or p + a > most for o, p, a in zip(over, prompt, answer, strict=True)],
            [o or p > most for o, p in zip(over, prompt, strict=True)],
        )

    def _counts(self, texts: list[str]) -> Iterator[int]:
        return map(len, self.tokenizer(texts, add_special_tokens=False)["input_ids"])

    def _within(self, source: str, room: int) -> list[int]:
        room -= len(self.start)
        kept = self._allowed(source)
        ids = self._tokens(self.before + kept + self.after)
        while len(ids) > room:
            kept = self._shorter(kept, len(ids) - room)
            if not kept:
                raise UserError(
                    f"max_length={self.max_length} has no room for any of the source "
                    f"{source[:40]!r} beside template and target; give a larger one"
                )
            ids = self._tokens(self.before + kept + self.after)
        return self.start + ids

    def _allowed(self, source: str) -> str:
        if self.max_source is None:
            return source
        over = len(self._tokens(source)) - self.max_source
        return self._shorter(source, over) if over > 0 else source

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _shorter(self, text: str, tokens: int) -> str:
        """The text without its last ``tokens`` tokens."""
        found: Any = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans: Sequence[tuple[int, int]] = found["offset_mapping"]
        return text[: spans[-tokens][0]] if tokens < len(spans) else ""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How an answer is looked for; the same prompts always give the same texts.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        num_beams: 1 is greedy.
        stop: Strings that end an answer and are not part of it, beside the end token.
        batch_size: Most prompts answered at once.
        batch_tokens: Most tokens held at once (unless one prompt alone is more): prompts padded
            to the longest, each with room for its answer, times the beams. It bounds the cache
            of keys and values.

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
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)!r}: must be at least 1")


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


def end_tokens(*ids: int | list[int] | None) -> list[int]:
    """Every end token: those of the model's settings, and the tokeniser's, which is trained on."""
    found: list[int] = []
    for value in ids:
        found += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(found))


def up_to(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings in it."""
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


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
        eos_token_id=end_tokens(settings.eos_token_id, tokenizer.eos_token_id),
        use_cache=True,
    )
    return settings
