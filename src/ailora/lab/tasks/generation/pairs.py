"""From tables to a task whose answers are texts: what is read, written and compared."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value

from ailora.errors import UserError
from ailora.lab.tasks.base import GenerationTask, fingerprint_of
from ailora.lab.tasks.generation.generated import ROUGE, check_generated, seen_by_rouge
from ailora.lab.tasks.tables.broken import BrokenRows, Place, Report
from ailora.lab.tasks.tables.read import Table, brief
from ailora.lab.tasks.tables.split import Sampling, at_most, complete, shared_texts

_log = logging.getLogger(__name__)

_FEATURES = Features(
    {"source": Value("string"), "target": Value("string"), "references": List(Value("string"))}
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One row: what the model reads, what it learns to write, what it is scored against."""

    source: str
    target: str
    references: tuple[str, ...]


# Makes a pair of a row; ValueError says what the row lacks.
ToPair = Callable[[Mapping[str, Any]], Pair]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How answers are asked for, generated and scored: fields of the task.

    Raises:
        UserError: ``{source}`` is not in the template once, a count is below 1, or a metric is no
            score of generated texts.
    """

    template: str
    metrics: tuple[str, ...]
    max_new_tokens: int
    num_beams: int
    max_source_tokens: int | None = None

    def __post_init__(self) -> None:
        check_generated(self.metrics)
        if self.template.count("{source}") != 1:
            raise UserError(f"template {brief(self.template)}: must hold {{source}} once")
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)!r}: must be at least 1")


def build_generation_task(
    name: str,
    tables: Mapping[str, Table],
    to_pair: ToPair,
    writing: Writing,
    sampling: Sampling,
    broken: BrokenRows,
) -> GenerationTask:
    """Turn rows into pairs, make the splits that are missing, apply the limits.

    Splits are made as `load_text_task` makes them. The notes say what was made, which texts splits
    share, and how many rows have references that ROUGE cannot see.

    Args:
        name: Of the task.
        tables: ``train`` and perhaps ``dev`` and ``test``.
        to_pair: Makes a pair of a row.
        writing: How answers are asked for and scored.
        sampling: Which rows are kept.
        broken: Takes the rows that ``to_pair`` refuses; what it counted stands in the notes.

    Raises:
        UserError: No usable rows, too few to split, a limit below 1, ROUGE of texts without one
            ASCII letter or digit, or a broken row where the rule is to stop.
    """
    parts = {part: to_rows(table, to_pair, broken.report) for part, table in tables.items()}
    whole, notes = complete(parts, seed=sampling.seed, stratify=False)
    limits = (sampling.limit, sampling.eval_limit, sampling.eval_limit)
    train, selection, test = (
        at_most(rows, limit, seed=sampling.seed, stratify=False)
        for rows, limit in zip(whole, limits, strict=True)
    )
    notes = broken.notes() + notes + _shared(train=train, selection=selection, test=test)
    if set(writing.metrics) & set(ROUGE):
        notes += _unseen(name, selection=selection, test=test)
    return generation_task(name, (train, selection, test), writing, notes)


def generation_task(
    name: str,
    splits: tuple[Dataset, Dataset, Dataset],
    writing: Writing,
    notes: tuple[str, ...],
) -> GenerationTask:
    """Put complete splits and how they are written together, and log the notes."""
    train, selection, test = splits
    for note in notes:
        _log.info("%s: %s", name, note)
    meaning = [writing.template, writing.max_new_tokens, writing.num_beams, *writing.metrics]
    if writing.max_source_tokens:
        meaning.append(writing.max_source_tokens)
    return GenerationTask(
        name=name,
        train=train,
        selection=selection,
        test=test,
        metrics=writing.metrics,
        template=writing.template,
        max_new_tokens=writing.max_new_tokens,
        num_beams=writing.num_beams,
        max_source_tokens=writing.max_source_tokens,
        fingerprint=fingerprint_of(splits, meaning),
        notes=notes,
    )


def to_rows(table: Table, to_pair: ToPair, report: Report) -> Dataset:
    """Return the columns ``source``, ``target`` and ``references`` of a table.

    Raises:
        UserError: No row is left; and what ``report`` raises.
    """
    kept = (_kept(to_pair, row, table.source, line, report) for line, row in table.rows)
    pairs = [pair for pair in kept if pair is not None]
    if not pairs:
        raise UserError(f"{table.source} has no rows that can be used: an empty split")
    columns = {name: [getattr(pair, name) for pair in pairs] for name in _FEATURES}
    columns["references"] = [list(references) for references in columns["references"]]
    return Dataset.from_dict(columns, features=_FEATURES)


def _kept(
    to_pair: ToPair, row: Mapping[str, Any], source: str, line: Place, report: Report
) -> Pair | None:
    try:
        return to_pair(row)
    except ValueError as error:
        report(source, line, str(error))
    return None


def check_columns(table: Table, names: Sequence[str]) -> None:
    """Raise a UserError that lists the columns present unless all the names are among them."""
    for name in names:
        if name not in table.columns:
            present = ", ".join(table.columns)
            raise UserError(
                f"{table.source}: no column {name!r}; name another (columns present: {present})"
            )


def text_in(row: Mapping[str, Any], column: str) -> str:
    """Return a row's text; a number is taken as it is written.

    Raises:
        ValueError: It is missing, empty, or neither text nor a number.
    """
    value = row.get(column)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"column {column!r}: expected text, got {brief(value)}; fill it in or drop the row"
        )
    try:
        value.encode("utf-8")  # JSON can hold half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise ValueError(f"column {column!r}: {error.reason}; mend the text") from error
    return value


def _shared(**splits: Dataset) -> tuple[str, ...]:
    texts = {
        name: Dataset.from_dict({"text": [_plain(text) for text in rows["source"]]})
        for name, rows in splits.items()
    }
    notes = shared_texts(**texts)
    return tuple(f"{note} (case, spacing and punctuation aside)" for note in notes)


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip() or text


def _unseen(name: str, **splits: Dataset) -> tuple[str, ...]:
    notes = []
    for part, rows in splits.items():
        count = sum(not any(map(seen_by_rouge, references)) for references in rows["references"])
        what = "no reference with an ASCII letter or digit, all that ROUGE sees"
        if count == len(rows):
            raise UserError(f"{name}: {part} has {what}; name another metric, such as exact")
        if count:
            notes.append(f"{count} of {len(rows)} {part} rows have {what}: they score 0")
    return tuple(notes)
