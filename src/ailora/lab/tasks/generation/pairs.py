"""From tables to a task whose answers are texts: what is read, written and compared.

Instructions, summaries and arithmetic problems all become pairs of texts here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from datasets import Dataset, Features, List, Value

from ailora.errors import UserError
from ailora.lab.tasks.generation.text_scores import ROUGE, check_generated, seen_by_rouge
from ailora.lab.tasks.tables.split import (
    Sampling,
    Splits,
    comparable,
    complete,
    limited,
    shared_texts,
)
from ailora.lab.tasks.tables.table import (
    BrokenRows,
    Report,
    Row,
    Table,
    brief,
    text_in,
    usable_rows,
)
from ailora.lab.tasks.task import GenerationTask, fingerprint_of, log_notes

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
ToPair = Callable[[Row], Pair]


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
        name: Name of the task.
        tables: ``train`` and perhaps ``dev`` and ``test``.
        to_pair: Makes a pair of a row.
        writing: How answers are asked for and scored.
        sampling: Which rows are kept.
        broken: Takes the rows that ``to_pair`` refuses; what it counted stands in the notes.

    Raises:
        UserError: No usable rows, too few to split, a limit below 1, ROUGE of texts without one
            ASCII letter or digit, or a broken row where the rule is to stop.
    """
    parts = {part: to_dataset(table, to_pair, broken.report) for part, table in tables.items()}
    whole, made = complete(parts, seed=sampling.seed)
    splits = limited(whole, sampling)
    notes = (*broken.notes(), *made, *_shared(splits))
    if set(writing.metrics) & set(ROUGE):
        notes += _unseen(name, selection=splits[1], test=splits[2])
    return generation_task(name, splits, writing, notes)


def generation_task(
    name: str,
    splits: Splits,
    writing: Writing,
    notes: tuple[str, ...],
) -> GenerationTask:
    """Put together a task of complete splits, and log its notes."""
    train, selection, test = splits
    log_notes(name, notes)
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


def to_dataset(table: Table, to_pair: ToPair, report: Report) -> Dataset:
    """Return the columns ``source``, ``target`` and ``references`` of a table.

    Raises:
        UserError: No row is left; and what ``report`` raises.
    """
    pairs = usable_rows(table, to_pair, report)
    columns = {name: [getattr(pair, name) for pair in pairs] for name in _FEATURES}
    columns["references"] = [list(references) for references in columns["references"]]
    return Dataset.from_dict(columns, features=_FEATURES)


def instruction_in(row: Row, instruction: str = "instruction", more: str | None = "input") -> str:
    """Return a row's instruction and, if it has one, its input below a heading, as Alpaca does.

    Args:
        row: Values by column.
        instruction: Column of the instruction.
        more: Column of the input, which may be missing or empty; None for none.

    Raises:
        ValueError: The instruction is missing or empty, or one of the two is not text.
    """
    text = text_in(row, instruction)
    extra = None if more is None else row.get(more)
    if more is None or extra is None or (isinstance(extra, str) and not extra.strip()):
        return text
    return f"{text}\n\n### Input:\n{text_in(row, more)}"


def _shared(splits: Splits) -> tuple[str, ...]:
    texts = {
        name: [comparable(text) for text in rows["source"]]
        for name, rows in zip(("train", "selection", "test"), splits, strict=True)
    }
    return tuple(f"{note} (case, spacing and punctuation aside)" for note in shared_texts(texts))


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
