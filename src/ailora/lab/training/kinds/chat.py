"""Conversations: the model's own chat template, the loss on the assistant's turns."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import ClassVar

from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ailora.errors import UserError
from ailora.lab.settings import RunConfig
from ailora.lab.tasks import ChatTask
from ailora.lab.training.chat_prompts import ChatPrompts
from ailora.lab.training.generate import IGNORED, end_tokens
from ailora.lab.training.kinds.base import Lengths
from ailora.lab.training.kinds.generation import Columns, Generation, Row

logger = logging.getLogger(__name__)


class Chat(Generation):
    """The assistant's last turn for the turns before it, by a decoder; `ChatPrompts` says how."""

    task: ChatTask
    usual_length: ClassVar[int] = 1024

    def __init__(self, task: ChatTask, config: RunConfig) -> None:
        super().__init__(task, config)
        self._asked: dict[int, tuple[Dataset, list[list[int]]]] = {}  # by id of the rows; held here
        if config.max_source_tokens:
            raise UserError(
                f"max_source_tokens={config.max_source_tokens}: conversations are cut by "
                "max_length alone; leave it out"
            )

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A decoder whose tokeniser has a chat template, after a look at all rows to be answered.

        Raises:
            UserError: As `Generation.load`; an encoder-decoder, no chat template, or one that
                refuses a row of selection or test.
        """
        model, tokenizer = super().load()
        for rows in (self.task.selection, self.task.test):
            self.prompts_of(rows, tokenizer)
        self._check_end(model, tokenizer)
        return model, tokenizer

    def settle(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """As `Generation.settle`, and the chat template.

        Raises:
            UserError: As there; an encoder-decoder, or no chat template.
        """
        super().settle(config, tokenizer)
        name = self.config.model
        if not self._writes_only:
            raise UserError(
                f"model {name!r} is an encoder-decoder, which conversations are not put into; "
                "name a decoder"
            )
        if self.task.chat_template is not None:
            tokenizer.chat_template = self.task.chat_template
        if not tokenizer.chat_template:
            raise UserError(
                f"model {name!r}: its tokenizer has no chat template, which conversations go "
                'into; give a jinja file (chat_template="FILE") or a model trained to chat'
            )

    def lengths(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        learned: bool = True,
        first: int = 1,
    ) -> Lengths:
        """Tokens of whole conversations and of what is learned of them; or of prompts alone."""
        prompts = self._chat_prompts(tokenizer)
        if not learned:
            asked = self._prompts_in(rows, prompts, first)
            counts = list(map(len, asked))
            return Lengths(parts={"prompt": counts}, cut=[n > self.max_length for n in counts])
        whole, own, refused = [], [], {}
        for number, row in enumerate(rows):
            try:
                found = prompts.whole(row["messages"], row["first_learned"])
                prompts.kept(found)
            except UserError as error:  # noqa: PERF203 - each row may be the one
                refused[number] = self._refused(first + number, error)
                whole.append(0)
                own.append(0)
            else:
                whole.append(len(found.ids))
                own.append(sum(label != IGNORED for label in found.labels))
        return Lengths(
            parts={"conversation": whole, "learned": own},
            cut=[count > self.max_length for count in whole],
            refused=refused,
        )

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Row], Columns]:
        """Tokens of a whole conversation; see `ChatPrompts.example` for what is refused."""
        prompts = self._chat_prompts(tokenizer)
        return lambda row: prompts.example(row["messages"], row["first_learned"])

    def prompts_of(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Tokens of the turns before the last, of each row.

        Raises:
            UserError: The template refuses a row, with its number.
        """
        if id(rows) in self._asked:
            return self._asked[id(rows)][1]
        prompts = self._chat_prompts(tokenizer)
        found = self._prompts_in(rows, prompts)
        long = sum(len(prompt) > self.max_length for prompt in found)
        if long:
            logger.warning(
                "%d of %d prompts lose their beginning: more than max_length=%d tokens",
                *(long, len(found), self.max_length),
            )
        self._asked[id(rows)] = (rows, list(map(prompts.fitting, found)))
        return self._asked[id(rows)][1]

    def _prompts_in(self, rows: Dataset, prompts: ChatPrompts, first: int = 1) -> list[list[int]]:
        found = []
        for number, messages in enumerate(rows["messages"], start=first):
            try:
                found.append(prompts.prompt(messages))
            except UserError as error:  # noqa: PERF203 - each row may be the broken one
                raise UserError(f"{self.task.name}, row {number}: {error}") from error
        return found

    def _check_end(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Warn if the template closes answers without a token at which generating stops."""
        ends = end_tokens(model.generation_config.eos_token_id, tokenizer.eos_token_id)
        row = self.task.test[0]
        whole = ChatPrompts(tokenizer, sys.maxsize, on_answer=False).example(row["messages"])
        said = whole["input_ids"][len(self._chat_prompts(tokenizer).prompt(row["messages"])) :]
        if not set(said) & set(ends):
            logger.warning(
                "the chat template closes an answer without an end token (%s), so answers run on "
                "to max_new_tokens=%d",
                ", ".join(map(repr, tokenizer.convert_ids_to_tokens(ends))),
                self.search.max_new_tokens,
            )

    def _chat_prompts(self, tokenizer: PreTrainedTokenizerBase) -> ChatPrompts:
        return ChatPrompts(tokenizer, self.max_length, on_answer=self.config.loss_on == "answer")
