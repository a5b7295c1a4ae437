"""What a task is: three splits, its metrics and a fingerprint; and the kinds of task there are."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from ailora.lab.tasks.statement import Statement, row_counts
from ailora.lab.tasks.tables.split import Splits
from ailora.lab.tasks.tables.stored import rows_of
from ailora.lab.tasks.tables.table import PLACE

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Data of any kind, ready to be tokenised.

    A split may have the column ``group`` (str): its scores are then given by group too, and what
    is reported is the mean over the groups (MNLI's two test sets, the five arithmetic ones).

    Attributes:
        name: Safe as a part of a file name.
        train: Rows to learn from.
        selection: Rows to choose rates or stop early by. Never reported.
        test: Rows whose scores are reported. Nothing is chosen by them.
        metrics: Names of scores; the first is the headline.
        fingerprint: SHA-256 of the rows of the three splits, in order, and of the class names.
        notes: One line each on what was split, dropped or shared between splits.
        statement: What was read, to be said before training; None where nothing is to be said
            beyond the notes.
        places: File and line of each row, by split; empty where that is not known.
    """

    name: str
    train: Dataset
    selection: Dataset
    test: Dataset
    metrics: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    statement: Statement | None = None
    places: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)

    def said(self, most: int | None = None) -> tuple[str, ...]:
        """What is to be known of the data: the lines of its statement, else its notes."""
        if self.statement is not None:
            return self.statement.lines(most)
        splits = ("train", "selection", "test")
        rows = row_counts({split: getattr(self, split).num_rows for split in splits})
        return (f"{self.name}: {rows}", *self.notes)[:most]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTask(Task):
    """Text classification or regression.

    Each split has the columns ``text`` (str), ``text_pair`` (str, only where the task has two
    texts) and ``label`` (int64 class index, or float64).

    Attributes:
        labels: Class names by index; None for regression.
        positive: The class that the F1 of two classes is of; None for the last.
    """

    labels: tuple[str, ...] | None
    positive: str | None = None

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return self.labels is None

    @property
    def positive_index(self) -> int:
        """Index of the class that F1 is of."""
        if self.labels is None or self.positive is None:
            return 1
        return self.labels.index(self.positive)

    @property
    def num_outputs(self) -> int:
        """Width of the model's head (``num_labels`` in transformers): 1 for regression."""
        return 1 if self.labels is None else len(self.labels)

    @property
    def has_pair(self) -> bool:
        """Whether each row has a second text."""
        return "text_pair" in self.train.column_names


@dataclass(frozen=True, kw_only=True, eq=False)
class QATask(Task):
    """Questions whose answer is a span of a context, as SQuAD's.

    Each split has the columns ``id``, ``question``, ``context`` (str) and ``answers``: a dict of
    two lists, ``text`` (str) and ``answer_start`` (int, characters); both empty for a question
    that the context does not answer.

    Attributes:
        has_unanswerable: Whether there are such questions, so that a model may answer nothing.
        literal: Whether right answers of which SQuAD's rules leave nothing (``A``, ``the``) are
            compared as they are; the published sets' are not.
    """

    has_unanswerable: bool
    literal: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationTask(Task):
    """Texts that are answered with text: problems, documents to summarise, instructions.

    Each split has the columns ``source`` (str), ``target`` (str: what is learned) and
    ``references`` (list of str: what a generated text is scored against, the best counting).

    Attributes:
        template: What a decoder reads before it writes, with ``{source}`` once. An
            encoder-decoder reads the source as it is.
        max_new_tokens: Tokens generated at most, unless the run says otherwise.
        num_beams: Beams of the search, likewise; 1 is greedy.
        max_source_tokens: Tokens of a source that are read, likewise; None for what the length of
            a row leaves.
    """

    template: str
    max_new_tokens: int = 256
    num_beams: int = 1
    max_source_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatTask(GenerationTask):
    """Conversations whose last turn, an assistant's, is generated and scored.

    Each split has the columns ``messages`` (a list of ``role`` and ``content``) and
    ``first_learned`` (int, the number of the first turn that may be learned) as well.

    Attributes:
        chat_template: Jinja text that the turns go into; None for the model's own.
    """

    chat_template: str | None = None


def fingerprint_of(splits: tuple[Dataset, Dataset, Dataset], extra: Any) -> str:
    """Return the SHA-256 of all rows in order and of what else the data means, as hex."""
    digest = hashlib.sha256(json.dumps(extra).encode())
    for split in splits:
        digest.update(f"\n{split.num_rows}".encode())
        for row in rows_of(split, sorted(split.column_names), "fingerprint of the rows"):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def without_places(splits: Splits) -> tuple[Splits, dict[str, Sequence[str]]]:
    """Splits without the column that says where each row was read, and that column by split."""
    train, selection, test = splits
    named = {"train": train, "selection": selection, "test": test}
    places = {name: rows[PLACE] for name, rows in named.items() if PLACE in rows.column_names}
    if not places:
        return splits, {}
    return tuple(rows.remove_columns(PLACE) for rows in splits), places


def log_notes(name: str, notes: tuple[str, ...]) -> None:
    """Log what a task's notes say, one line each."""
    for note in notes:
        _log.info("%s: %s", name, note)
