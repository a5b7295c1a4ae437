"""Tasks that are answered with text: learned token by token, scored on what is generated."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from ailora.errors import UserError
from ailora.lab.settings import RunConfig
from ailora.lab.tasks import GenerationTask
from ailora.lab.tasks.generation.text_scores import answer_of, commonest, score
from ailora.lab.tasks.tables.stored import rows_of
from ailora.lab.training.generate import (
    IGNORED,
    DecoderPrompts,
    EncoderPrompts,
    Prompts,
    Search,
    generate,
)
from ailora.lab.training.kinds.base import Collator, Kind, Lengths, OnCount, Scored, Scores
from ailora.lab.training.model import load_pretrained

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Columns = dict[str, list[int]]
_HEADING = re.compile(r"^###[^\n{}]*?(?=:?$)", re.MULTILINE)  # "### Instruction" of a template


class Generation(Kind[GenerationTask]):
    """A text for each source, by a decoder (source in a template) or an encoder-decoder.

    `DecoderPrompts` and `EncoderPrompts` tell what is read, and what ``max_length`` counts.
    """

    usual_length: ClassVar[int] = 512
    greater_is_better: ClassVar[bool] = False
    step0_rows: ClassVar[int] = 4  # logits over a vocabulary are large
    new_head: ClassVar[bool] = False

    def __init__(self, task: GenerationTask, config: RunConfig) -> None:
        super().__init__(task, config)
        self._writes_only = True  # a decoder; known once the model is loaded
        own = None if config.max_length else task.max_source_tokens
        self._source_tokens = config.max_source_tokens or own

    @property
    def monitored(self) -> tuple[str, ...]:
        """The loss on the targets: generating would take longer than the training."""
        return ("loss",)

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A decoder or an encoder-decoder, with its own output layer."""
        model, tokenizer = load_pretrained(self.model_name, _TextModel, seed=self.config.seed)
        self.settle(model.config, tokenizer)
        return model, tokenizer

    @property
    def model_name(self) -> str:
        """Name of the base model; the embedded one is a decoder here."""
        return "demo-decoder" if self.config.model == "demo" else self.config.model

    def settle(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Whether the model is a decoder, and what its rows' lengths are.

        Raises:
            UserError: No end token, or no room for prompt and answer.
        """
        self._writes_only = not config.is_encoder_decoder
        if tokenizer.eos_token_id is None:
            raise UserError(f"model {self.model_name!r}: its tokenizer has no end token to stop at")
        tokenizer.padding_side = "right"
        if self._source_tokens and not self.config.max_length:
            self.max_length = self._source_tokens + self._tokens_beside(tokenizer)
        self._check_room(config)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Tokens of prompt and target with labels, or of source and target.

        Raises:
            UserError: A row that cannot be learned, such as a target that leaves no room for its
                source, with the row's number; with ``on_broken="skip"`` only if no other is left.
        """
        example = self.examples(tokenizer)
        columns: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": []}
        left_out = []
        for number, row in enumerate(rows, start=1):
            try:
                found = example(row)
            except UserError as error:
                left_out.append(self._refused(number, error))
                continue
            for name, column in columns.items():
                column.append(found[name])
        if left_out:
            logger.warning("%d of %d rows left out: %s", len(left_out), len(rows), left_out[0])
        if left_out and not columns["labels"]:
            raise UserError(f"none of {len(rows)} rows can be learned; {left_out[0]}")
        return Dataset.from_dict(columns)

    def lengths(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        learned: bool = True,
        first: int = 1,
    ) -> Lengths:
        """Tokens of prompt and answer, with all special tokens."""
        found = self._prompts(tokenizer).lengths(list(rows["source"]), list(rows["target"]))
        cut = found.cut_to_learn if learned else found.cut_to_answer
        example, refused = self.examples(tokenizer), {}
        for number, row in enumerate(rows):
            if learned and cut[number]:
                try:
                    example(row)
                except UserError as error:
                    refused[number] = self._refused(first + number, error)
        return Lengths(
            parts={"prompt": found.prompt, "answer": found.answer}, cut=cut, refused=refused
        )

    def _refused(self, number: int, error: UserError) -> str:
        """Say which row cannot be learned, and raise that unless such rows are left out."""
        said = f"{self.task.name}, row {number}: {error}"
        if self.config.on_broken != "skip":
            raise UserError(f'{said} (or leave such rows out: on_broken="skip")') from error
        return said

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Row], Columns]:
        """What makes ``input_ids``, ``attention_mask`` and ``labels`` of a row to learn from."""
        prompts = self._prompts(tokenizer)
        return lambda row: prompts.example(row["source"], row["target"])

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Pads on the right to the longest row of the batch; a decoder's start the model makes."""
        collate: Collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
        return collate

    def final(
        self, trainer: Trainer, rows: Dataset, *, on_progress: OnCount = lambda done, of: None
    ) -> Scored:
        """Generated answers against the references."""
        return self.answer(trainer.model, trainer.processing_class, rows, on_progress=on_progress)

    def answer(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        *,
        on_progress: OnCount = lambda done, of: None,
    ) -> Scored:
        """Generate for each row and score it; the model may be a base model as well.

        Returns:
            Means of the task's metrics, and one record per row: source, generated text as it is,
            the answer found in it, references, scores, group where there are groups.
        """
        began = time.perf_counter()
        prompts = self.prompts_of(rows, tokenizer)
        texts = generate(model, tokenizer, prompts, self.search, on_progress=on_progress)
        logger.info("%d texts in %.1f s", len(texts), time.perf_counter() - began)
        scores = [
            score(self.task.metrics, text, references)
            for text, references in zip(texts, rows["references"], strict=True)
        ]

        def mean(chosen: Sequence[int]) -> Scores:
            return _mean([scores[row] for row in chosen])

        return Scored.of(rows, mean, tuple(map(self._record, rows, texts, scores)))

    def prompts_of(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Tokens that each row's answer is generated from."""
        return list(map(self._prompts(tokenizer).prompt, rows["source"]))

    def majority(self) -> float | None:
        """The commonest training answer for every row; None for scores that compare words."""
        metric = self.task.metrics[0]
        rows = rows_of(self.task.train, ["references"])
        answer = commonest(metric, (references[0] for (references,) in rows))
        if answer is None:
            return None
        scores = [score([metric], answer, row)[metric] for row in self.task.test["references"]]

        def mean(chosen: Sequence[int]) -> Scores:
            return _mean([{metric: scores[row]} for row in chosen])

        return Scored.of(self.task.test, mean).metrics[metric]

    @property
    def search(self) -> Search:
        """The run's settings, else the task's; a heading of the template ends an answer."""
        chosen = self.config
        return Search(
            max_new_tokens=chosen.max_new_tokens or self.task.max_new_tokens,
            num_beams=chosen.num_beams or self.task.num_beams,
            stop=tuple(_HEADING.findall(self.task.template)) if self._writes_only else (),
            batch_size=chosen.answer_batch_size,
        )

    def _record(self, row: dict[str, Any], text: str, scores: Scores) -> dict[str, Any]:
        group = {"group": row["group"]} if "group" in row else {}
        return {
            "source": row["source"],
            "generated": text,
            "answer": answer_of(self.task.metrics[0], text),
            "references": row["references"],
            **scores,
            **group,
        }

    def _prompts(self, tokenizer: PreTrainedTokenizerBase) -> Prompts:
        if not self._writes_only:
            longest = min(self.max_length, self._source_tokens or self.max_length)
            return EncoderPrompts(tokenizer, longest)
        return DecoderPrompts(
            self.task.template,
            tokenizer,
            self.max_length,
            on_answer=self.config.loss_on == "answer",
            max_source=self._source_tokens,
        )

    def _tokens_beside(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """What a decoder's row holds beside its source: the template and the answer."""
        if not self._writes_only:
            return 0
        template = tokenizer(self.task.template.replace("{source}", ""))["input_ids"]
        return len(template) + self.search.max_new_tokens

    def _check_room(self, config: PretrainedConfig) -> None:
        """A decoder needs positions for the prompt and the answer."""
        positions = getattr(config, "max_position_embeddings", None)
        longest = self.max_length + self.search.max_new_tokens
        if self._writes_only and positions is not None and longest > positions:
            raise UserError(
                f"max_length={self.max_length} with max_new_tokens={self.search.max_new_tokens}: "
                f"this model reads {positions} tokens in all; lower one of them, or "
                "max_source_tokens"
            )


class _TextModel:
    """Stands for an ``AutoModelFor...``: which one, the model's config tells."""

    @staticmethod
    def from_pretrained(path: str, *, config: Any, **options: Any) -> Any:
        if config.is_encoder_decoder:
            return AutoModelForSeq2SeqLM.from_pretrained(path, config=config, **options)
        # Models that may read both ways have the switch; a decoder has none.
        if getattr(config, "is_decoder", True) is False:
            raise ValueError(f"a {config.model_type} reads both ways and writes no text")
        return AutoModelForCausalLM.from_pretrained(path, config=config, **options)


def _mean(scores: list[Scores]) -> Scores:
    """Mean over rows.

    Raises:
        UserError: There are none.
    """
    if not scores:
        raise UserError("no rows to score: an empty split")
    return {name: sum(row[name] for row in scores) / len(scores) for name in scores[0]}
