"""A word-level tokeniser of any words, and logits that say what a test wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import transformers as hf
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tokenizer(words: Iterable[str], *, cls: bool = True) -> hf.PreTrainedTokenizerFast:
    """``[CLS] question [SEP] context [SEP]``, or without the first."""
    known = {word: index for index, word in enumerate((*SPECIAL, *words))}
    inner = Tokenizer(WordLevel(known, unk_token=SPECIAL[1]))
    inner.pre_tokenizer = Whitespace()
    begin = "[CLS] " if cls else ""
    inner.post_processor = TemplateProcessing(
        single=f"{begin}$A [SEP]",
        pair=f"{begin}$A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    if not cls:
        del names["cls_token"]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


def rows(*questions: tuple[str, str, str | None]) -> Dataset:
    """A row for each (question, context, answer); the answer is at its first place."""
    answers = [
        {"text": [text], "answer_start": [context.index(text)]}
        if text is not None
        else {"text": [], "answer_start": []}
        for _, context, text in questions
    ]
    return Dataset.from_dict(
        {
            "id": [str(index) for index in range(len(questions))],
            "question": [question for question, _, _ in questions],
            "context": [context for _, context, _ in questions],
            "answers": answers,
        }
    )


def logits(windows: Dataset, width: int, value: float = 0.0) -> npt.NDArray[np.float32]:
    return np.full((len(windows), width), value, dtype=np.float32)


def perfect(windows: Dataset, width: int) -> tuple[Any, Any]:
    """Logits that are high where the labels are."""
    found = []
    for name in ("start_positions", "end_positions"):
        scores = logits(windows, width)
        scores[np.arange(len(windows)), np.asarray(windows[name][:])] = 9.0
        found.append(scores)
    return found[0], found[1]
