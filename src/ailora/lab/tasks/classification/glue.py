"""GLUE: eight of its nine sets, from the hub or a local folder, scored as the paper scores them.

Sets, columns and label order are those of the hub's ``nyu-mll/glue``. The paper leaves WNLI out, as
the works before it do (section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from datasets import Dataset, concatenate_datasets

from ailora.errors import UserError
from ailora.lab.tasks.classification.labels import Encode, encode_number
from ailora.lab.tasks.classification.metrics import metric_names
from ailora.lab.tasks.classification.text import (
    Columns,
    build_text_task,
    choose_columns,
    to_dataset,
)
from ailora.lab.tasks.tables.read import find_file
from ailora.lab.tasks.tables.sources import folder_of, read_named_set
from ailora.lab.tasks.tables.split import Sampling
from ailora.lab.tasks.tables.table import BrokenRows, OnBroken, Table, brief
from ailora.lab.tasks.task import TextTask

_LABEL = "label"
_MISMATCHED = "mismatched"
# Names a split has on the hub and may have as a file; "dev" is the reported one.
_SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("dev", "validation", "dev_matched", "validation_matched"),
    _MISMATCHED: ("dev_mismatched", "validation_mismatched"),
}
_LOWEST, _HIGHEST = 0.0, 5.0


@dataclass(frozen=True, kw_only=True)
class GlueSet:
    """What one set is.

    Attributes:
        text: Names of its text columns.
        labels: Class names by index; None for STS-B, a similarity from 0 to 5.
        metrics: The one the paper reports first (section 4.1), then what else the hub's GLUE
            metric or the works that the paper compares with give.
    """

    text: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]


_ENTAILMENT = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")

GLUE: Mapping[str, GlueSet] = MappingProxyType(
    {
        "cola": GlueSet(
            text=("sentence",), labels=("unacceptable", "acceptable"), metrics=("mcc", "accuracy")
        ),
        "sst2": GlueSet(text=("sentence",), labels=("negative", "positive"), metrics=("accuracy",)),
        "mrpc": GlueSet(
            text=_PAIR, labels=("not_equivalent", "equivalent"), metrics=("f1", "accuracy")
        ),
        "stsb": GlueSet(text=_PAIR, labels=None, metrics=("spearman", "pearson")),
        "qqp": GlueSet(
            text=("question1", "question2"),
            labels=("not_duplicate", "duplicate"),
            metrics=("f1", "accuracy"),
        ),
        "mnli": GlueSet(
            text=("premise", "hypothesis"),
            labels=("entailment", "neutral", "contradiction"),
            metrics=("accuracy",),
        ),
        "qnli": GlueSet(text=("question", "sentence"), labels=_ENTAILMENT, metrics=("accuracy",)),
        "rte": GlueSet(text=_PAIR, labels=_ENTAILMENT, metrics=("accuracy",)),
    }
)


def load_glue(
    name: str,
    *,
    data: Path | str | None = None,
    metrics: Sequence[str] | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> TextTask:
    """Load a GLUE set.

    The test split of the task is the official dev set, which papers report since GLUE hides the
    labels of its test sets; a local test file is left unread, also where it has labels. A tenth of
    train is held out for selection, seeded, each class in its proportion. MNLI's dev rows carry the
    column ``group``, "matched" or "mismatched".

    Args:
        name: A key of ``GLUE``.
        data: Folder with ``<name>/train.*`` and ``<name>/dev.*`` (and ``dev_mismatched.*`` for
            MNLI): jsonl, csv or tsv, each also ``.gz``. Columns are the hub's, or ``sentence1``
            and ``sentence2``; labels the hub's numbers or names. None asks the hub.
        metrics: Names of metrics, the headline first; None for the set's own.
        split_seed: Seed of the selection split and of the rows that the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: As in ``load_text_task``; the label -1 (hidden) and a similarity outside 0 to 5
            are broken too.

    Raises:
        UserError: No such set, file or column, or a broken row where the rule is to stop.
    """
    if name not in GLUE:
        raise UserError(f"no GLUE set is called {name!r}; there are {', '.join(GLUE)}")
    kind = GLUE[name]
    names = metric_names(metrics or kind.metrics, regression=kind.labels is None)
    broken = BrokenRows(on_broken, local=data is not None)
    tables = read_named_set(
        name,
        data,
        f"glue/{name}",
        label=_LABEL,
        report=broken.report,
        splits=_SPLITS,
        required=("train", "dev"),
    )
    encode = _encode_score if kind.labels is None else _class_index(kind.labels)
    parts = {
        part: to_dataset(table, _columns(table, kind), encode, broken.report)
        for part, table in tables.items()
    }
    return build_text_task(
        name,
        {"train": parts["train"], "test": _reported(name, parts)},
        labels=kind.labels,
        metrics=names,
        sampling=Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        notes=broken.notes() + _notes(name, data, parts),
    )


def _columns(table: Table, kind: GlueSet) -> Columns:
    plain = len(kind.text) == 2 and set(_PAIR) <= set(table.columns)
    return choose_columns(table, _PAIR if plain else kind.text, _LABEL)


def _class_index(names: tuple[str, ...]) -> Encode:
    index = {name: number for number, name in enumerate(names)}
    index |= {str(number): number for number in range(len(names))}
    known = ", ".join(f"{number} ({name})" for number, name in enumerate(names))

    def encode(text: str) -> int:
        if text not in index:
            hidden = ": -1 marks a label that is not public" if text == "-1" else ""
            raise ValueError(f"label {brief(text)} is none of {known}{hidden}")
        return index[text]

    return encode


def _encode_score(text: str) -> float:
    value = encode_number(text)
    if not _LOWEST <= value <= _HIGHEST:
        raise ValueError(f"expected a similarity from 0 to 5, got {brief(text)}")
    return value


def _reported(name: str, parts: dict[str, Dataset]) -> Dataset:
    if name != "mnli":
        return parts["dev"]
    groups = {"matched": parts["dev"], _MISMATCHED: parts.get(_MISMATCHED)}
    return concatenate_datasets(
        [
            rows.add_column("group", [group] * rows.num_rows)
            for group, rows in groups.items()
            if rows is not None
        ]
    )


def _notes(name: str, data: Path | str | None, parts: dict[str, Dataset]) -> tuple[str, ...]:
    notes = ["the test split is GLUE's dev set, as papers report it"]
    if data is not None and find_file(folder_of(data, name), ("test",)):
        notes.append("the test file is left unread: one rule for all GLUE sets")
    if name == "mnli" and _MISMATCHED not in parts:
        notes.append("matched rows only: there is no mismatched dev file")
    return tuple(notes)
