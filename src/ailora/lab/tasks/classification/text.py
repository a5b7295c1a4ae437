"""Classification and regression on your own files or a hub data set.

Also what any such task is made of, GLUE's too: which columns of a table hold the texts and the
label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from ailora.errors import UserError
from ailora.lab.tasks.classification.labels import Encode, meaning_of, positive_of, raw_label
from ailora.lab.tasks.classification.metrics import metric_names
from ailora.lab.tasks.statement import Statement, columns_left_out, notes_of, some
from ailora.lab.tasks.tables.repeats import shared_but_for_case
from ailora.lab.tasks.tables.sources import is_local, name_of, read_tables
from ailora.lab.tasks.tables.split import (
    Sampling,
    SingleRows,
    complete,
    limited,
)
from ailora.lab.tasks.tables.stored import dataset_of
from ailora.lab.tasks.tables.table import (
    PLACE,
    BrokenRows,
    OnBroken,
    Report,
    Row,
    Table,
    missing_words,
    quoted_values,
    stop,
    text_in,
    usable_rows,
)
from ailora.lab.tasks.task import TextTask, fingerprint_of, log_notes, without_places

# Tried in this order when the caller names no text column; pairs first, since a table with
# "sentence1" and "sentence2" may also have a "text".
_KNOWN_TEXT: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("question", "passage"),
    ("question", "context"),
    ("sentence",),
    ("text",),
    ("review",),
    ("content",),
)

_LABEL = "label"
# A question on a passage is answered by true or false, as in BoolQ, where there is no label.
_ASKED, _ANSWER = {("question", "passage"), ("question", "context")}, "answer"


def load_text_task(
    train: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    text: Sequence[str] | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    positive: str | None = None,
    regression: bool | None = None,
    metrics: Sequence[str] | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> TextTask:
    """Read a task from local files, from a folder of them, or from the hub.

    Splits that are missing are made, seeded, each class in its proportion: with train alone, a
    tenth of its rows for selection and a tenth for test; with train and dev, dev becomes the test
    split (as papers report GLUE) and a tenth of train is held out for selection; with train and
    test, a tenth of train likewise. Limits apply after that.

    Args:
        train: A csv, tsv, jsonl or json file (json is a list of objects; each also compressed:
            ``.gz``, ``.bz2``, ``.xz``, ``.zst``), a parquet, arrow or feather file; a folder with
            ``train.*`` and perhaps ``dev.*`` and ``test.*``, or shards of them; or a hub name such
            as ``owner/set`` or ``owner/set:config``.
        dev: A file, beside a train file.
        test: A file, beside a train file.
        text: Names of the one or two text columns; None finds common names.
        text_pair: Name of the second text column, beside one in ``text``.
        label: Name of the label column; None takes ``label``, or ``answer`` beside a question and
            its passage.
        labels: Names of the classes in the order of their indices; the column holds these names or
            the indices. None takes all labels of train, numbers before names, sorted.
        positive: The class of two that F1 is of; None takes the last.
        regression: None decides by the labels: regression if some are numbers with a fraction and
            nearly all others are numbers too.
        metrics: Names of metrics, the headline first. By default accuracy, f1, mcc; or pearson,
            spearman.
        split_seed: Seed of the splits made here and of the rows that the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: What a row does that is not UTF-8 or not well-formed, or whose text or label is
            missing, empty or, in dev and test, unknown: "stop", with file and line, or "skip",
            counted in the notes with the file and line of the first. None stops at those of local
            files, which can be mended, and skips those of the hub. With "skip", say
            ``regression`` rather than let broken labels decide it.

    Raises:
        UserError: Anything wrong with files, columns, labels, metrics or limits, in one line.
    """
    broken = BrokenRows(on_broken, local=is_local(train))
    tables = read_tables(train, dev, test, label=label or _LABEL, report=broken.report)
    columns = choose_columns(tables["train"], text, label, text_pair)
    meaning = meaning_of(tables["train"], columns.label, regression=regression, order=labels)
    said = positive_of(meaning.names, positive)
    parts = {
        part: to_dataset(
            table, choose_columns(table, columns.text, columns.label), meaning.encode, broken.report
        )
        for part, table in tables.items()
    }
    used = (*columns.text, columns.label)
    odd = [
        note
        for table in tables.values()
        for note in (*missing_words(table, used), *quoted_values(table, used))
    ]
    return build_text_task(
        name_of(train),
        parts,
        labels=meaning.names,
        metrics=metric_names(metrics, regression=meaning.names is None),
        sampling=Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        notes=(*broken.notes(), *notes_of(tables), *odd, *meaning.notes),
        positive=said,
        read=Read(
            source=str(train),
            columns=columns,
            left_out=columns_left_out(tables["train"], used),
        ),
    )


def build_text_task(
    name: str,
    parts: Mapping[str, Dataset],
    *,
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...],
    sampling: Sampling,
    notes: tuple[str, ...],
    positive: str | None = None,
    read: Read | None = None,
) -> TextTask:
    """Make the splits that are missing, apply the limits, look for shared texts.

    Args:
        name: Name of the task.
        parts: ``train`` and perhaps ``dev`` and ``test``, as `to_dataset` returns them.
        labels: Class names by index; None for regression.
        metrics: Names of metrics, the headline first.
        sampling: Which rows are kept.
        notes: What is to be said of the parts; what is done here is added.
        positive: The class of two that F1 is of; None for the last.
        read: Where the parts were read and from which columns, for the task's statement.

    Raises:
        UserError: Train has too few rows to be split, or a limit is less than 1.
    """
    draw = SingleRows(stratify=labels is not None)
    whole, made = complete(parts, seed=sampling.seed, draw=draw)
    splits, places = without_places(limited(whole, sampling, draw))
    train, selection, test = splits
    compared = {"train": train, "selection": selection, "test": test}
    found = (
        *shared_but_for_case(compared, text_columns(train)),
        *_absent_classes(compared, labels or ()),
    )
    task = TextTask(
        name=name,
        train=train,
        selection=selection,
        test=test,
        labels=labels,
        positive=positive or positive_of(labels, None),
        metrics=metrics,
        fingerprint=fingerprint_of(splits, labels),
        notes=(*notes, *made, *found),
        places=places,
    )
    log_notes(name, task.notes)
    return replace(task, statement=_statement(task, read, (*notes, *found), made))


def _absent_classes(splits: Mapping[str, Dataset], labels: Sequence[str]) -> tuple[str, ...]:
    """One line for each split without a row of some class, which no score of it can speak of."""
    lines = []
    for part, rows in splits.items():
        seen = set(rows["label"][:])
        absent = [name for index, name in enumerate(labels) if index not in seen]
        if absent:
            what = "it is not learned" if part == "train" else "its f1 there is 0 or left out"
            lines.append(f"no {part} row is of the class {some(absent)}: {what}")
    return tuple(lines)


def _statement(
    task: TextTask, read: Read | None, remarks: tuple[str, ...], made: tuple[str, ...]
) -> Statement:
    counts = Counter(task.train["label"][:]) if task.labels is not None else Counter[int]()
    kind = "regression" if task.labels is None else "classification"
    return Statement(
        kind=f"{kind} on pairs of texts" if task.has_pair else f"{kind} on texts",
        source=task.name if read is None else read.source,
        used={} if read is None else read.columns.used,
        left_out=() if read is None else read.left_out,
        rows={part: getattr(task, part).num_rows for part in ("train", "selection", "test")},
        classes={name: counts[index] for index, name in enumerate(task.labels or ())},
        positive=task.positive if "f1" in task.metrics else None,
        remarks=remarks,
        made=made,
    )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of one or two text columns and of the label column."""

    text: tuple[str, ...]
    label: str

    @property
    def used(self) -> dict[str, str]:
        """Names of the columns by what they are used for."""
        roles = ("text",) if len(self.text) == 1 else ("text", "second text")
        return {**dict(zip(roles, self.text, strict=True)), "label": self.label}


@dataclass(frozen=True, kw_only=True)
class Read:
    """Where a training table was read, from which columns, and which were left out."""

    source: str
    columns: Columns
    left_out: tuple[str, ...]


def choose_columns(
    table: Table, text: Sequence[str] | None, label: str | None, pair: str | None = None
) -> Columns:
    """Take the named columns, or known names for those that are not named.

    Args:
        table: The rows.
        text: Names of one or two text columns; None finds known names.
        label: Name of the label column; None for ``label``, or ``answer`` beside a question and a
            passage.
        pair: Name of the second text column, where ``text`` names the first alone.

    Raises:
        UserError: A named column is missing, none is known, or more than two texts are named; the
            message lists the columns present.
    """
    names = _known_texts(table) if text is None and pair is None else _said_texts(text, pair)
    if not names:
        raise UserError(
            f"{table.source}: no text column known by name; name it "
            f"(columns present: {', '.join(table.columns)})"
        )
    if label is None:
        asked = names in _ASKED and _LABEL not in table.columns and _ANSWER in table.columns
        label = _ANSWER if asked else _LABEL
    table.require(*names, label)
    return Columns(text=names, label=label)


def _known_texts(table: Table) -> tuple[str, ...]:
    return next((known for known in _KNOWN_TEXT if set(known) <= set(table.columns)), ())


def _said_texts(text: Sequence[str] | None, pair: str | None) -> tuple[str, ...]:
    names = () if text is None else (text,) if isinstance(text, str) else tuple(text)
    if pair is not None:
        if len(names) != 1:
            raise UserError(
                f"text_pair {pair!r} goes with one text column, got {list(names)!r}; name the "
                "first text as text"
            )
        return (*names, pair)
    if len(names) not in (1, 2):
        raise UserError(f"one or two text columns are needed, got {list(names)!r}")
    return names


def to_dataset(table: Table, columns: Columns, encode: Encode, report: Report = stop) -> Dataset:
    """Return ``text``, ``text_pair`` (for two texts), ``label`` and the places of a table's rows.

    Args:
        table: The rows.
        columns: Which of its columns to take.
        encode: Makes a class index (int) or a number (float) of a label.
        report: Told of each row with an empty or missing text or label, or one that ``encode``
            refuses. Unless it raises, the row is left out.

    Raises:
        UserError: No row is left. And what ``report`` raises.
    """

    def values(row: Row) -> tuple[Any, ...]:
        texts = [text_in(row, name, numbers=False) for name in columns.text]
        try:
            return (*texts, encode(raw_label(row.get(columns.label))))
        except ValueError as error:
            raise ValueError(f"column {columns.label!r}: {error}") from error

    names = (*("text", "text_pair")[: len(columns.text)], "label")
    rows = ((*value, place) for place, value in usable_rows(table, values, report))
    return dataset_of(rows, (*names, PLACE))


def text_columns(split: Dataset) -> list[str]:
    """The one or two columns with texts."""
    return [name for name in ("text", "text_pair") if name in split.column_names]
