"""Questions with overlapping windows of their contexts, as an extractive model reads them.

A context that does not fit beside its question is cut into windows that share ``stride`` tokens.
A window that does not hold the whole answer is to point at the null position (the tokeniser's CLS
token; the first token where there is none), as in Devlin et al. 2019 and transformers' run_qa.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, Value, concatenate_datasets

from ailora.errors import UserError
from ailora.lab.tasks.qa.questions import is_placed

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 500
LABELS = ("start_positions", "end_positions")
# Where a window is from; not read by a model.
PLACES = ("row", "first", "char_starts", "char_ends")


def make_windows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int
) -> Dataset:
    """Tokenise questions with their contexts.

    A question longer than (max_length - special tokens - stride) / 2 tokens is cut there, so that
    each window goes on by at least as much again; how many were is logged.

    Args:
        rows: Columns ``question``, ``context``, ``answers``.
        tokenizer: A fast one, which knows the characters of its tokens.
        max_length: Tokens of a window, with question and special tokens.
        stride: Tokens that neighbouring windows share.

    Returns:
        One row per window, in the order of ``rows``: the tokeniser's own columns;
        ``start_positions`` and ``end_positions``, the tokens of the first answer; ``row``, the
        index in ``rows``; ``null``, the null position; ``first``, the position of the first
        context token; ``char_starts`` and ``char_ends`` of each context token.

    Raises:
        UserError: The tokeniser is not a fast one, or the stride leaves no room for the question.
    """
    room = _room_for_question(tokenizer, max_length, stride)
    questions, cut = _fitting(rows["question"][:], tokenizer, room)
    if cut:
        _log.warning("%d of %d questions cut to %d tokens", cut, len(rows), room)
    cutting = _cutting(max_length, stride)
    parts = []
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        batch = rows[begin : begin + _ROWS_AT_ONCE]
        encoded = tokenizer(
            questions[begin : begin + _ROWS_AT_ONCE],
            batch["context"],
            return_offsets_mapping=True,
            **cutting,
        )
        parts.append(_dataset(encoded, batch, begin, tokenizer))
    return concatenate_datasets(parts)


class Windows(NamedTuple):
    """Of each row: tokens of question and context, number of windows, whether a question is cut."""

    question: list[int]
    context: list[int]
    windows: list[int]
    cut: list[bool]


def count_windows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int
) -> Windows:
    """Count what `make_windows` makes of rows; for its arguments and errors see there."""
    room = _room_for_question(tokenizer, max_length, stride)
    plain = {"add_special_tokens": False, "return_attention_mask": False}
    whole, contexts = list(rows["question"]), list(rows["context"])
    questions, _ = _fitting(whole, tokenizer, room)
    found = tokenizer(questions, contexts, **_cutting(max_length, stride))
    windows = np.bincount(found["overflow_to_sample_mapping"], minlength=len(rows))
    lengths = list(map(len, tokenizer(whole, **plain)["input_ids"]))
    return Windows(
        question=lengths,
        context=list(map(len, tokenizer(contexts, **plain)["input_ids"])),
        windows=windows.tolist(),
        cut=[length > room for length in lengths],
    )


def _cutting(max_length: int, stride: int) -> dict[str, Any]:
    """How contexts are cut into windows, as a tokeniser takes it."""
    return {
        "truncation": "only_second",
        "max_length": max_length,
        "stride": stride,
        "return_overflowing_tokens": True,
    }


def _room_for_question(tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> int:
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, so it cannot tell where in a "
            "context an answer stands; choose a model with a tokenizer.json"
        )
    room: int = (max_length - tokenizer.num_special_tokens_to_add(pair=True) - stride) // 2
    if room < 1:
        raise UserError(
            f"doc_stride={stride} leaves no room in a window of max_length={max_length}; "
            "give a shorter stride, about a third of the window"
        )
    return room


def _fitting(
    questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, room: int
) -> tuple[list[str], int]:
    """Questions of at most ``room`` tokens, and how many had to be cut."""
    kept, cut = list(questions), 0
    lengths = tokenizer(kept, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    for index, tokens in enumerate(lengths):
        if len(tokens) > room:
            kept[index] = _cut(kept[index], tokenizer, room)
            cut += 1
    return kept, cut


def _cut(question: str, tokenizer: PreTrainedTokenizerBase, room: int) -> str:
    # A word that is cut may have more tokens than it had: cut again.
    shorter = question
    while True:
        found = tokenizer(shorter, add_special_tokens=False, return_offsets_mapping=True)
        offsets = found["offset_mapping"]
        if len(offsets) <= room:
            return shorter
        shorter = shorter[: min(offsets[room - 1][1], len(shorter) - 1)]


def _dataset(
    encoded: BatchEncoding,
    batch: Mapping[str, Any],
    begin: int,
    tokenizer: PreTrainedTokenizerBase,
) -> Dataset:
    own = [name for name in tokenizer.model_input_names if name in encoded]
    columns: dict[str, list[Any]] = {name: encoded[name] for name in own}
    places = list(_places(encoded, batch, begin, tokenizer))
    numbers = (*LABELS, "row", "null", "first")
    lists = (*own, "char_starts", "char_ends")
    columns |= {name: [place[name] for place in places] for name in places[0]}
    kinds = {name: Value("int32") for name in numbers} | {name: [Value("int32")] for name in lists}
    return Dataset.from_dict(columns, features=Features(kinds))


def _places(
    encoded: BatchEncoding,
    batch: Mapping[str, Any],
    begin: int,
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[dict[str, Any]]:
    """What is known of each window beside its tokens."""
    for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
        parts = encoded.sequence_ids(window)
        length = parts.count(1)
        first = parts.index(1) if length else len(parts)
        offsets = encoded["offset_mapping"][window][first : first + length]
        starts, ends = np.array(offsets, np.int32).reshape(-1, 2).T
        null = _null_position(encoded["input_ids"][window], tokenizer.cls_token_id)
        span = _answer_tokens(batch["context"][row], batch["answers"][row], starts, ends)
        yield {
            "start_positions": null if span is None else first + span[0],
            "end_positions": null if span is None else first + span[1],
            "row": begin + row,
            "null": null,
            "first": first,
            "char_starts": starts,
            "char_ends": ends,
        }


def _null_position(tokens: Sequence[int], cls: int | None) -> int:
    return tokens.index(cls) if cls is not None and cls in tokens else 0


def _answer_tokens(
    context: str, answers: Mapping[str, Any], starts: Any, ends: Any
) -> tuple[int, int] | None:
    """The context tokens of the first answer; None if there is none or it is not all here."""
    if not answers["text"] or not len(starts):
        return None
    text, begin = answers["text"][0], answers["answer_start"][0]
    if not is_placed(context, text, begin):
        return None
    end = begin + len(text)
    if starts[0] > begin or ends[-1] < end:
        return None
    # One character may be several tokens with the same offsets: take in all of them.
    start = starts[np.searchsorted(starts, begin, side="right") - 1]
    last = ends[np.searchsorted(ends, end, side="left")]
    first_token = int(np.searchsorted(starts, start, side="left"))
    last_token = int(np.searchsorted(ends, last, side="right")) - 1
    return first_token, last_token
