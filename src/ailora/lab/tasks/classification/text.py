"""Classification and regression on your own files or a hub data set.

Also what any such task is made of, GLUE's too: which columns of a table hold the texts and the
label, and what labels mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from ailora.errors import UserError
from ailora.lab.tasks.classification.metrics import metric_names
from ailora.lab.tasks.tables.sources import is_local, name_of, read_tables
from ailora.lab.tasks.tables.split import (
    Sampling,
    SingleRows,
    complete,
    limited,
    shared_texts,
)
from ailora.lab.tasks.tables.table import (
    BrokenRows,
    OnBroken,
    Report,
    Row,
    Table,
    brief,
    stop,
    text_in,
    usable_rows,
)
from ailora.lab.tasks.task import TextTask, fingerprint_of, log_notes

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
    ("sentence",),
    ("text",),
    ("review",),
    ("content",),
)


# Turns a raw label into a class index (int) or a number (float); a ValueError says why it cannot.
Encode = Callable[[str], int | float]


def load_text_task(
    train: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    text: Sequence[str] | None = None,
    label: str = "label",
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
        train: A csv, tsv, jsonl or json file (each also ``.gz``; json is a list of objects); a
            folder with ``train.*`` and perhaps ``dev.*`` and ``test.*``; or a hub name such as
            ``owner/set``.
        dev: A file, beside a train file.
        test: A file, beside a train file.
        text: Names of the one or two text columns; None finds common names.
        label: Name of the label column.
        regression: None decides by the labels: regression if all are numbers, some with a fraction.
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
    tables = read_tables(train, dev, test, label=label, report=broken.report)
    columns = choose_columns(tables["train"], text, label)
    labels, encode = _meaning(tables["train"], label, regression)
    parts = {
        part: to_dataset(table, choose_columns(table, columns.text, label), encode, broken.report)
        for part, table in tables.items()
    }
    return build_text_task(
        name_of(train),
        parts,
        labels=labels,
        metrics=metric_names(metrics, regression=labels is None),
        sampling=Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        notes=broken.notes(),
    )


def build_text_task(
    name: str,
    parts: Mapping[str, Dataset],
    *,
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...],
    sampling: Sampling,
    notes: tuple[str, ...],
) -> TextTask:
    """Make the splits that are missing, apply the limits, look for shared texts.

    Args:
        name: Name of the task.
        parts: ``train`` and perhaps ``dev`` and ``test``, as `to_dataset` returns them.
        labels: Class names by index; None for regression.
        metrics: Names of metrics, the headline first.
        sampling: Which rows are kept.
        notes: What is to be said of the parts; what is done here is added.

    Raises:
        UserError: Train has too few rows to be split, or a limit is less than 1.
    """
    draw = SingleRows(stratify=labels is not None)
    whole, made = complete(parts, seed=sampling.seed, draw=draw)
    train, selection, test = splits = limited(whole, sampling, draw)
    texts = {"train": _texts(train), "selection": _texts(selection), "test": _texts(test)}
    notes = (*notes, *made, *shared_texts(texts))
    log_notes(name, notes)
    return TextTask(
        name=name,
        train=train,
        selection=selection,
        test=test,
        labels=labels,
        metrics=metrics,
        fingerprint=fingerprint_of(splits, labels),
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of one or two text columns and of the label column."""

    text: tuple[str, ...]
    label: str


def choose_columns(table: Table, text: Sequence[str] | None, label: str) -> Columns:
    """Take the named columns, or known names for the texts where none is named.

    Raises:
        UserError: A named column is missing, none is known, or more than two texts are named; the
            message lists the columns present.
    """
    if text is None:
        names = next((known for known in _KNOWN_TEXT if set(known) <= set(table.columns)), ())
        if not names:
            present = ", ".join(table.columns)
            raise UserError(
                f"{table.source}: no text column known by name; name it "
                f"(columns present: {present})"
            )
    else:
        names = (text,) if isinstance(text, str) else tuple(text)
        if len(names) not in (1, 2):
            raise UserError(f"one or two text columns are needed, got {list(names)!r}")
    table.require(*names, label)
    return Columns(text=names, label=label)


def to_dataset(table: Table, columns: Columns, encode: Encode, report: Report = stop) -> Dataset:
    """Return the columns ``text``, ``text_pair`` (for two texts) and ``label`` of a table.

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
            return (*texts, encode(_raw_label(row.get(columns.label))))
        except ValueError as error:
            raise ValueError(f"column {columns.label!r}: {error}") from error

    names = (*("text", "text_pair")[: len(columns.text)], "label")
    by_column = map(list, zip(*usable_rows(table, values, report), strict=True))
    # Types are inferred (str, int64, float64): told, datasets converts every value on its own.
    return Dataset.from_dict(dict(zip(names, by_column, strict=True)))


def encode_number(text: str) -> float:
    """Return a label as a finite float.

    Raises:
        ValueError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"expected a number for regression, got {brief(text)}") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number for regression, got {brief(text)}")
    return value


def _meaning(
    table: Table, label: str, regression: bool | None
) -> tuple[tuple[str, ...] | None, Encode]:
    """Class names of a training table, or None for regression; and how a label is encoded."""
    values = _label_values(table, label)
    if regression is None:
        regression = table.label_names is None and _is_numeric_scale(values)
    if regression:
        return None, encode_number
    names = _class_names(table, label, values)
    return names, _class_encoder(names)


def _label_values(table: Table, label: str) -> frozenset[str]:
    """The different labels of a table as text; those that cannot be used are passed over."""
    found = set()
    for _, row in table.rows:
        with suppress(ValueError):
            found.add(_raw_label(row.get(label)))
    return frozenset(found)


def _class_names(table: Table, label: str, values: Set[str]) -> tuple[str, ...]:
    """Classes of a training table: those its source declares, else numbers before names, sorted.

    Raises:
        UserError: One class only, or so many that the column cannot hold classes.
    """
    if table.label_names is not None:
        return table.label_names
    where = f"{table.source}: column {label!r}"
    if len(values) == 1:
        raise UserError(
            f"{where} holds one class only ({brief(next(iter(values)))}): nothing to learn"
        )
    if len(values) > 20 and 2 * len(values) > len(table.rows):
        raise UserError(
            f"{where} has {len(values)} different values in {len(table.rows)} rows, too many for "
            "classes; name another label column, or ask for regression"
        )
    return tuple(sorted(values, key=_numbers_first))


def _is_numeric_scale(values: Set[str]) -> bool:
    """Whether labels look like a regression target: all numbers, some with a fraction."""
    try:
        numbers = [float(text) for text in values]
    except ValueError:
        return False
    return all(map(math.isfinite, numbers)) and not all(map(float.is_integer, numbers))


def _class_encoder(names: tuple[str, ...]) -> Encode:
    """A function from a class name to its index; ValueError for an unknown one."""
    index = {name: position for position, name in enumerate(names)}
    known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")

    def encode(text: str) -> int:
        if text not in index:
            raise ValueError(f"label {brief(text)} is not in train (there: {known})")
        return index[text]

    return encode


def _raw_label(value: Any) -> str:
    """A label as text, so that 1 in JSON and ``1`` in csv are the same class.

    Raises:
        ValueError: It is missing, empty, or not a scalar.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"expected a label, got {brief(value)}; fill it in or drop the row")
    return str(value).strip()


def _texts(split: Dataset) -> list[tuple[str, ...]]:
    columns = [name for name in ("text", "text_pair") if name in split.column_names]
    return list(zip(*(split[name][:] for name in columns), strict=True))


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return (False, float(text), text)
    except ValueError:
        return (True, 0.0, text)
