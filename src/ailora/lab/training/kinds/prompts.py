"""Sources and targets as tokens, by kind of model: alike in training and in generating."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ailora.errors import UserError

IGNORED = -100  # a label that the loss leaves out


class Prompts(ABC):
    """What a model reads of a row; a source that is too long loses its end."""

    @abstractmethod
    def prompt(self, source: str) -> list[int]:
        """Tokens that an answer is generated from."""

    @abstractmethod
    def example(self, source: str, target: str) -> dict[str, list[int]]:
        """``input_ids``, ``attention_mask`` and ``labels`` of a row to learn from."""


class EncoderPrompts(Prompts):
    """For an encoder-decoder: the encoder reads the source, the decoder writes the target.

    ``max_length`` is that of the source with its special tokens; targets stay whole.
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
        """The model itself shifts the labels to what its decoder reads."""
        ids = self.prompt(source)
        labels = self.tokenizer(text_target=target)["input_ids"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


class DecoderPrompts(Prompts):
    """For a decoder: the source in a template, then the target and the end token.

    Prompt and target are tokenised apart and joined, so that training sees the very tokens that
    generating starts from, whatever the tokeniser would merge across the border. ``max_length`` is
    that of all of it in training and of the prompt in generating, ``max_source`` that of the source
    alone; only the source is ever cut.
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
        """Labels are the tokens themselves; on the answer alone, -100 on those of the prompt.

        Raises:
            UserError: The target leaves no room for any of the source.
        """
        answer = [*self._tokens(target), self.tokenizer.eos_token_id]
        prompt = self._within(source, self.max_length - len(answer))
        hidden = [IGNORED] * len(prompt) if self.on_answer else prompt
        ids = prompt + answer
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": hidden + answer}

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
