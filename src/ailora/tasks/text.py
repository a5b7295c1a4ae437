"""Classification and regression on your own files or a hub data set."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from ailora.errors import UserError
from ailora.tasks import hub, records
from ailora.tasks.base import TextTask, fingerprint_of
from ailora.tasks.broken import BrokenRows, OnBroken, Report, rule_for
from ailora.tasks.metrics import metric_names
from ailora.tasks.read import SUFFIXES, Table, find_file, kind_of, read_table
from ailora.tasks.split import at_most, complete, shared_texts

_log = logging.getLogger(__name__)

_STEMS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}


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
        train: A csv, tsv or jsonl file (each also ``.gz``); a folder with ``train.*`` and perhaps
            ``dev.*`` and ``test.*``; or a hub name such as ``glue/cola``.
        dev: A file, beside a train file.
        test: A file, beside a train file.
        text: Names of the one or two text columns; None finds common names.
        label: Name of the label column.
        regression: None decides by the labels: regression if all are numbers, some with a fraction.
        metrics: Names from ``ailora.tasks.metrics``, the headline first. By default accuracy, f1,
            mcc; or pearson, spearman.
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
    broken = BrokenRows(rule_for(on_broken, local=_is_local(train)))
    tables = _tables(train, dev, test, label, broken.report)
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
        _safe_name(str(train)),
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


def _is_local(train: Path | str) -> bool:
    path = Path(train).expanduser()
    return path.exists() or kind_of(path) is not None


def _tables(
    train: Path | str, dev: Path | str | None, test: Path | str | None, label: str, report: Report
) -> dict[str, Table]:
    given = {part: Path(file).expanduser() for part, file in (("dev", dev), ("test", test)) if file}
    path = Path(train).expanduser()
    if _is_local(train):
        files = {**(_files_in(path) if path.is_dir() else {"train": path}), **given}
        return {part: read_table(file, report) for part, file in files.items()}
    if not hub.is_hub_name(str(train)):
        raise UserError(f"{train} does not exist; check the path")
    if given:
        raise UserError(f"dev and test files go with a local train file, not with hub {train!r}")
    tables = hub.hub_tables(str(train), label)
    if "train" not in tables:
        raise UserError(f"hub data set {train!r} has no train split; choose another")
    return tables


def _files_in(folder: Path) -> dict[str, Path]:
    files = {part: find_file(folder, stems) for part, stems in _STEMS.items()}
    if files["train"] is None:
        kinds = ", ".join(f"train{kind}" for kind in SUFFIXES)
        raise UserError(f"{folder} holds no training file; expected {kinds}, each also with .gz")
    return {part: file for part, file in files.items() if file is not None}


def _safe_name(source: str) -> str:
    path = Path(source)
    kind = kind_of(path)
    if kind is not None:
        stem = path.name[: path.name.lower().rindex(kind)]
        source = path.absolute().parent.name if stem == "train" else stem
    elif path.is_dir():
        source = path.resolve().name
    return re.sub(r"[^\w.-]+", "-", source).strip("-.") or "text"
