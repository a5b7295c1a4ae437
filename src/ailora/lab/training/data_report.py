"""What a run would be trained on, looked at without training: lengths, repeats, odd rows.

A split is gone through a thousand rows at a time; what is kept of a row is a few numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ailora.lab.tasks import GenerationTask, QATask, Task, TextTask
from ailora.lab.tasks.classification.text import text_columns
from ailora.lab.tasks.generation.pairs import source_keys
from ailora.lab.tasks.tables.repeats import CaseKeys, Keys, case_keys, keys_of
from ailora.lab.tasks.tables.stored import AT_ONCE, rows_of
from ailora.lab.tasks.tables.watching import tell
from ailora.lab.training.kinds import Kind

_SPLITS = ("train", "selection", "test")
_SHOWN = 3  # rows that are named of each thing
_FAR = 10  # times max_length
_RARE = 3  # rows of a class
# A mark that stands for lost bytes; and UTF-8 that was read as Latin-1 or Windows-1252.
_GARBLED = re.compile("\ufffd|[\u00c3\u00c2][\u0080-\u00bf]|\u00e2\u20ac")
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SplitLengths:
    """Tokens of one split's rows before anything is cut.

    Attributes:
        split: Name of the split.
        parts: int64 (rows,) by what is counted; see `Kind.lengths`.
        cut: bool (rows,), whether a row loses tokens.
        refused: Why rows cannot be learned, by row number from 0.
    """

    split: str
    parts: Mapping[str, _Numbers]
    cut: npt.NDArray[np.bool_]
    refused: Mapping[int, str]


class Pairs(NamedTuple):
    """Rows of one split that stand in an earlier place too, and the first such place of each."""

    rows: _Numbers
    first: _Numbers


class Repeats(NamedTuple):
    """Rows of one split that repeat an earlier one of it.

    `exact` counts those that are the same in case and spaces too. `contradictions` are rows with
    another answer than the first of the same text.
    """

    pairs: Pairs
    exact: int
    contradictions: Pairs


class Compared(NamedTuple):
    """What is compared of a split's rows: their texts, what must not be shared, and the answers."""

    texts: CaseKeys
    shared: Keys
    answers: npt.NDArray[Any]


def measure(kind: Kind[Any]) -> list[SplitLengths]:
    """Count the tokens of every row, as training makes them.

    Raises:
        UserError: What training would refuse: the model, the length, a row that cannot be learned.
    """
    tokenizer = kind.load_tokenizer()
    splits = splits_of(kind.task)
    total, done, found = sum(map(len, splits.values())), 0, []
    for split, rows in splits.items():
        parts: dict[str, list[_Numbers]] = {}
        cut, refused = [], dict[int, str]()
        for begin in range(0, len(rows), AT_ONCE):
            tell("counting tokens", done, total)
            some = rows.select(range(begin, min(begin + AT_ONCE, len(rows))))
            counted = kind.lengths(some, tokenizer, learned=split != "test", first=begin + 1)
            for name, counts in counted.parts.items():
                parts.setdefault(name, []).append(np.asarray(counts, np.int64))
            cut.append(np.asarray(counted.cut, bool))
            refused |= {begin + row: why for row, why in counted.refused.items()}
            done += len(some)
        joined = {name: np.concatenate(counts) for name, counts in parts.items()}
        found.append(
            SplitLengths(split=split, parts=joined, cut=np.concatenate(cut), refused=refused)
        )
    tell("counting tokens", total, total)
    return found


def splits_of(task: Task) -> dict[str, Dataset]:
    """The splits by name."""
    return {split: getattr(task, split) for split in _SPLITS}


def compared(task: Task) -> dict[str, Compared]:
    """What is compared of each split's rows: what the task's own leaks are found by."""
    return {split: _compared(task, rows) for split, rows in splits_of(task).items()}


def repeats(found: Compared) -> Repeats:
    """The rows of a split that repeat an earlier one of it."""
    pairs = _repeated(found.texts.folded)
    other = found.answers[pairs.rows] != found.answers[pairs.first]
    return Repeats(
        pairs,
        len(_repeated(found.texts.exact).rows),
        Pairs(pairs.rows[other], pairs.first[other]),
    )


def leaks(earlier: Compared, later: Compared) -> Pairs:
    """The rows of a later split that an earlier one shares, each with its first row there."""
    keys, first = np.unique(earlier.shared, return_index=True)
    rows = np.flatnonzero(np.isin(later.shared, keys))
    return Pairs(rows, first[np.searchsorted(keys, later.shared[rows])])


def place(task: Task, split: str, row: int) -> str:
    """File and line of a row, or its number where that is not known."""
    known = task.places.get(split)
    return known[int(row)] if known is not None else f"{split} row {row + 1}"


def named(task: Task, split: str, rows: Sequence[int] | _Numbers) -> str:
    """The places of the first few of some rows, and how many more there are."""
    more = len(rows) - _SHOWN
    first = ", ".join(place(task, split, row) for row in rows[:_SHOWN])
    return first + (f" and {more:,} more" if more > 0 else "")


def pairs_named(task: Task, split: str, pairs: Pairs, earlier: str) -> str:
    """The first few of some pairs of rows, each with its earlier place."""
    more = len(pairs.rows) - _SHOWN
    chosen = zip(pairs.rows[:_SHOWN], pairs.first[:_SHOWN], strict=True)
    said = ", ".join(
        f"{place(task, split, row)} as {place(task, earlier, first)}" for row, first in chosen
    )
    return said + (f" and {more:,} more" if more > 0 else "")


def odd_rows(task: Task, lengths: Sequence[SplitLengths], most: int) -> Iterator[str]:
    """Say what is odd about single rows, each thing with its count and first places.

    Args:
        task: The data.
        lengths: What `measure` counted.
        most: Tokens that are kept of a row.
    """
    for measured in lengths:
        split, rows = measured.split, getattr(task, measured.split)
        tokens = [counts for name, counts in measured.parts.items() if name != "windows"]
        far = np.flatnonzero(np.max(tokens, axis=0) > _FAR * most)
        if len(far):
            yield f"{_rows(far, split)} over {_FAR} times {most} tokens: {named(task, split, far)}"
        short, garbled = _odd_texts(rows, text_columns_of(task))
        if short:
            yield f"{_rows(short, split)} a text of one character: {named(task, split, short)}"
        if garbled:
            yield (
                f"{_rows(garbled, split)} characters lost or garbled in reading (such as "
                f"\ufffd or \u00c3\u00a9): {named(task, split, garbled)}"
            )
        if measured.refused:
            left = list(measured.refused)
            yield f"{_rows(left, split)} nothing left to learn: {named(task, split, left)}"
    if isinstance(task, TextTask) and task.labels is not None:
        labels = np.asarray(task.train["label"][:])
        for index, name in enumerate(task.labels):
            own = np.flatnonzero(labels == index)
            if 0 < len(own) < _RARE:
                yield f"class {name!r} has {_count(own, 'train')}: {named(task, 'train', own)}"


def text_columns_of(task: Task) -> list[str]:
    """The columns of a task that hold what is read and written."""
    if isinstance(task, QATask):
        return ["question", "context"]
    return ["source", "target"] if isinstance(task, GenerationTask) else text_columns(task.train)


def _compared(task: Task, rows: Dataset) -> Compared:
    if isinstance(task, TextTask):
        texts = case_keys(rows, text_columns(rows))
        return Compared(texts, texts.folded, np.asarray(rows["label"][:]))
    if isinstance(task, QATask):
        texts = case_keys(rows, ["question", "context"])
        said = ("\n".join(answer["text"]) for (answer,) in rows_of(rows, ["answers"]))
        return Compared(texts, case_keys(rows, ["context"]).folded, keys_of(said))
    sources = source_keys(rows)
    exact = keys_of(text for (text,) in rows_of(rows, ["source"]))
    answers = keys_of(text for (text,) in rows_of(rows, ["target"]))
    return Compared(CaseKeys(exact, sources), sources, answers)


def _repeated(keys: Keys) -> Pairs:
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    earliest = first[group]
    rows = np.flatnonzero(earliest != np.arange(len(keys)))
    return Pairs(rows, earliest[rows])


def _odd_texts(rows: Dataset, columns: Sequence[str]) -> tuple[list[int], list[int]]:
    """Numbers of rows with a text of one character, and of those with garbled ones."""
    short, garbled = [], []
    for number, texts in enumerate(rows_of(rows, columns, "looking for odd rows")):
        if any(len(text) < 9 and len(text.strip()) < 2 for text in texts[:1]):
            short.append(number)
        if any(_GARBLED.search(text) for text in texts if not text.isascii()):
            garbled.append(number)
    return short, garbled


def _rows(rows: Sequence[int] | _Numbers, split: str) -> str:
    return f"{_count(rows, split)} {'has' if len(rows) == 1 else 'have'}"


def _count(rows: Sequence[int] | _Numbers, split: str) -> str:
    return f"{len(rows):,} {split} row{'' if len(rows) == 1 else 's'}"
