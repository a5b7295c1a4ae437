"""Conversations as tokens: a chat template around the turns, and which tokens are the answers'."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ailora.errors import UserError
from ailora.lab.training.generate import IGNORED

Turns = Sequence[Mapping[str, str]]
_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class Whole(NamedTuple):
    """Tokens of a conversation and their labels, before it is cut."""

    ids: list[int]
    labels: list[int]


class ChatPrompts:
    """What a decoder reads of a conversation, in its tokeniser's chat template.

    Where the template marks the assistant's text itself (``{% generation %}``), those tokens are
    the answers'. Elsewhere they are what an assistant's turn adds to the turns before it with the
    cue to answer (``add_generation_prompt``): its text and what the template closes it with. The
    first is what TRL's ``assistant_only_loss`` learns; the second is the same tokens where TRL's
    marks begin after the cue (in its marked template of Qwen2.5 they begin a line end earlier).

    Args:
        tokenizer: A tokeniser with a chat template.
        max_length: Most tokens. Of a conversation to learn the first are kept, as TRL does; of a
            prompt to answer the last.
        on_answer: Whether the loss leaves out what is no answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, *, on_answer: bool = True
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.on_answer = on_answer
        self.marked = _MARKED.search(tokenizer.get_chat_template()) is not None

    def prompt(self, messages: Turns) -> list[int]:
        """Tokens that the last turn is generated from, all of them: see `fitting`.

        Raises:
            UserError: The template refuses the turns.
        """
        return self._tokens(messages[:-1], cue=True)

    def fitting(self, prompt: list[int]) -> list[int]:
        """The last ``max_length`` tokens of a prompt."""
        return prompt[-self.max_length :]

    def example(self, messages: Turns, first_learned: int = 0) -> dict[str, list[int]]:
        """Columns ``input_ids``, ``attention_mask`` and ``labels`` of a conversation to learn.

        Args:
            messages: Turns with ``role`` and ``content``.
            first_learned: Number of the first turn that may be learned, from 0.

        Raises:
            UserError: The template refuses the turns or does not tell the answers' tokens, or no
                token of an answer is left within ``max_length``.
        """
        return self.kept(self.whole(messages, first_learned))

    def whole(self, messages: Turns, first_learned: int = 0) -> Whole:
        """All tokens of a conversation, and their labels, before it is cut.

        Raises:
            UserError: The template refuses the turns or does not tell the answers' tokens.
        """
        ids = self._tokens(messages)
        labels = ids
        if self.on_answer:
            learned = self._learned(messages, ids, first_learned)
            labels = [token if own else IGNORED for token, own in zip(ids, learned, strict=True)]
        return Whole(ids, labels)

    def kept(self, whole: Whole) -> dict[str, list[int]]:
        """The columns of `example`.

        Raises:
            UserError: No token of an answer is left within ``max_length``.
        """
        ids, labels = whole
        kept = slice(self.max_length)
        if set(labels[kept]) <= {IGNORED}:
            raise UserError(
                f"max_length={self.max_length} cuts off all that is to be learned "
                f"({len(ids)} tokens in all); give a larger one"
            )
        return {
            "input_ids": ids[kept],
            "attention_mask": [1] * len(ids[kept]),
            "labels": labels[kept],
        }

    def _learned(self, messages: Turns, ids: list[int], first: int) -> list[bool]:
        """Whether each token is of an answer in a turn from ``first`` on."""
        if not self.marked:
            return self._by_prefixes(messages, ids, first)
        found = self._rendered(messages, return_assistant_tokens_mask=True)
        mask = list(map(bool, found["assistant_masks"]))
        if first:
            before = self._prefix_length(messages, first, ids, cue=False)
            mask[:before] = [False] * before
        return mask

    def _by_prefixes(self, messages: Turns, ids: list[int], first: int) -> list[bool]:
        mask = [False] * len(ids)
        for number in range(first, len(messages)):
            if messages[number]["role"] == "assistant":
                start = self._prefix_length(messages, number, ids, cue=True)
                end = self._prefix_length(messages, number + 1, ids, cue=False)
                mask[start:end] = [True] * (end - start)
        return mask

    def _prefix_length(self, messages: Turns, count: int, ids: list[int], *, cue: bool) -> int:
        """Number of tokens of the first turns, which all tokens must begin with."""
        before = self._tokens(messages[:count], cue=cue)
        if ids[: len(before)] == before:
            return len(before)
        start = self._text(messages[:count], cue=cue)
        cause = "this chat template rewrites earlier turns"
        if self._text(messages).startswith(start):
            cause = "the tokenizer joins the end of a turn with the beginning of the next"
        raise UserError(
            f"{cause}: the first {count} of {len(messages)} turns are other tokens once more "
            "follows, so it is not known which tokens are the answers'; give a template that marks "
            'them with {% generation %} (chat_template="FILE")'
        )

    def _tokens(self, messages: Turns, *, cue: bool = False) -> list[int]:
        return list(self._rendered(messages, add_generation_prompt=cue)["input_ids"])

    def _text(self, messages: Turns, *, cue: bool = False) -> str:
        return str(self._rendered(messages, add_generation_prompt=cue, tokenize=False))

    def _rendered(self, messages: Turns, **options: bool) -> Any:
        """What ``apply_chat_template`` gives: token ids and perhaps a mask, or the text."""
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
        try:
            return self.tokenizer.apply_chat_template(turns, **{"return_dict": True, **options})
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise UserError(f"the chat template refuses these turns: {error}") from error
