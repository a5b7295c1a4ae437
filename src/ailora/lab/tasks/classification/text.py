"""Classification and regression on your own files or a hub data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from ailora.lab.tasks.base import TextTask, fingerprint_of
from ailora.lab.tasks.classification.metrics import metric_names
from ailora.lab.tasks.tables import records
from ailora.lab.tasks.tables.broken import BrokenRows, OnBroken, rule_for
from ailora.lab.tasks.tables.sources import is_local, name_of, read_tables
from ailora.lab.tasks.tables.split import at_most, complete, shared_texts

_log = logging.getLogger(__name__)


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
        split_seed: Of the splits made here and of the rows the limits keep.
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
    broken = BrokenRows(rule_for(on_broken, local=is_local(train)))
    tables = read_tables(train, dev, test, label=label, report=broken.report)
    columns = records.choose_columns(tables["train"], text, label)
    values = records.label_values(tables["train"], label)
    if regression is None:
        regression = tables["train"].label_names is None and records.is_numeric_scale(values)
    names = metric_names(metrics, regression=regression)
    labels = None if regression else records.class_names(tables["train"], label, values)
    encode = records.number_encoder if labels is None else records.class_encoder(labels)
    parts = {}
    for part, table in tables.items():
        records.choose_columns(table, columns.text, label)
        parts[part] = records.to_dataset(table, columns, encode, broken.report)
    splits, notes = complete(parts, seed=split_seed, stratify=not regression)
    return build_task(
        name_of(train),
        splits,
        labels=labels,
        metrics=names,
        notes=broken.notes() + notes,
        seed=split_seed,
        limit=limit,
        eval_limit=eval_limit,
    )


def build_task(
    name: str,
    splits: tuple[Dataset, Dataset, Dataset],
    *,
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...],
    notes: tuple[str, ...],
    seed: int,
    limit: int | None,
    eval_limit: int | None,
) -> TextTask:
    """Apply the limits to complete splits, look for shared texts, and put the task together.

    Raises:
        UserError: A limit is less than 1.
    """
    stratify = labels is not None
    train = at_most(splits[0], limit, seed=seed, stratify=stratify)
    selection = at_most(splits[1], eval_limit, seed=seed, stratify=stratify)
    test = at_most(splits[2], eval_limit, seed=seed, stratify=stratify)
    notes += shared_texts(train=train, selection=selection, test=test)
    for note in notes:
        _log.info("%s: %s", name, note)
    return TextTask(
        name=name,
        train=train,
        selection=selection,
        test=test,
        labels=labels,
        metrics=metrics,
        fingerprint=fingerprint_of((train, selection, test), labels),
        notes=notes,
    )
