"""From tables to a task whose answers are texts: what is read, written and compared.

Instructions, summaries and arithmetic problems all become pairs of texts here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from datasets import Dataset, Features, List, Value

from ailora.errors import UserError
from ailora.lab.tasks.generation.text_scores import check_generated, check_references
from ailora.lab.tasks.statement import Statement, columns_left_out, notes_of
from ailora.lab.tasks.tables.repeats import Keys, comparable, keys_of, shared_texts
from ailora.lab.tasks.tables.split import (
    Sampling,
    Splits,
    complete,
    limited,
)
from ailora.lab.tasks.tables.stored import dataset_of, rows_of
from ailora.lab.tasks.tables.table import (
    PLACE,
    BrokenRows,
    Report,
    Row,
    Table,
    brief,
    missing_words,
    text_in,
    usable_rows,
)
from ailora.lab.tasks.task import GenerationTask, fingerprint_of, log_notes, without_places

FEATURES = Features(
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
Rights = Mapping[str, Sequence[Sequence[str]]]  # the references of each row, by split
_SCORED = ("selection", "test")
_PARTS = ("train", *_SCORED)


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
    chat_template: str | None = None

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
    *,
    published: bool = False,
    features: Features = FEATURES,
    source: str = "",
    used: Mapping[str, str] = MappingProxyType({}),
) -> GenerationTask:
    """Turn rows into pairs, make the splits that are missing, apply the limits.

    Splits are made as `load_text_task` makes them. The notes say what was made and which texts
    splits share. The right answers are scored first: a row whose own answer does not score 1 by
    each of the metrics is broken.

    Args:
        name: Name of the task.
        tables: ``train`` and perhaps ``dev`` and ``test``.
        to_pair: Makes a pair of a row.
        writing: How answers are asked for and scored.
        sampling: Which rows are kept.
        broken: Takes the rows that cannot be used; what it counted stands in the notes.
        published: Whether the rows are a published set's. They stay as they are, so that scores
            compare with others' on the same rows: those whose own answer does not score 1 are
            counted in the notes, and refused if they are a whole split.
        features: Columns of the rows: fields of the pairs.
        source: Where the tables were read, for the statement; the name where not said.
        used: Columns that are used, by what for.

    Raises:
        UserError: No usable rows, too few to split, a limit below 1, a metric that the right
            answers cannot meet, or a broken row where the rule is to stop.
    """
    scored = to_pair if published else _meeting(writing.metrics, to_pair)
    parts = {
        part: to_dataset(table, scored, broken.report, features) for part, table in tables.items()
    }
    whole, made = complete(parts, seed=sampling.seed)
    splits = limited(whole, sampling)
    odd = [note for table in tables.values() for note in missing_words(table, [*used.values()])]
    read, leaks = (*broken.notes(), *notes_of(tables), *odd), _shared(splits)
    notes = (*read, *made, *leaks)
    rights = {part: rows["references"] for part, rows in zip(_SCORED, splits[1:], strict=True)}
    if published:
        _check_met(name, writing.metrics, rights)
        notes += unmet_notes(writing.metrics, rights)
    if "rouge2" in writing.metrics[1:]:
        notes += _single_words(rights)
    statement = Statement(
        kind="texts answered with text",
        source=source or name,
        used=used,
        left_out=columns_left_out(tables["train"], [*used.values()]) if used else (),
        rows={part: len(rows) for part, rows in zip(_PARTS, splits, strict=True)},
        remarks=(*read, *leaks, *notes[len(read) + len(made) + len(leaks) :]),
        made=made,
    )
    return replace(generation_task(name, splits, writing, notes), statement=statement)


def generation_task(
    name: str,
    splits: Splits,
    writing: Writing,
    notes: tuple[str, ...],
) -> GenerationTask:
    """Put together a task of complete splits, and log its notes."""
    splits, places = without_places(splits)
    train, selection, test = splits
    log_notes(name, notes)
    meaning = [writing.template, writing.max_new_tokens, writing.num_beams, *writing.metrics]
    if writing.max_source_tokens:
        meaning.append(writing.max_source_tokens)
    if writing.chat_template:
        meaning.append(writing.chat_template)
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
        places=places,
    )


def to_dataset(
    table: Table, to_pair: ToPair, report: Report, features: Features = FEATURES
) -> Dataset:
    """Return ``source``, ``target`` and ``references`` of a table's rows, or the columns asked for.

    Beside them stands where each row was read.

    Raises:
        UserError: No row is left; and what ``report`` raises.
    """
    named = Features({**features, PLACE: Value("string")})
    rows = (
        (*(getattr(pair, name) for name in features), place)
        for place, pair in usable_rows(table, to_pair, report)
    )
    return dataset_of(rows, tuple(named), named.arrow_schema)


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
        name: source_keys(rows)
        for name, rows in zip(("train", "selection", "test"), splits, strict=True)
    }
    return tuple(f"{note} (case, spacing and punctuation aside)" for note in shared_texts(texts))


def source_keys(rows: Dataset) -> Keys:
    """What is compared of each row's source: its letters and digits."""
    return keys_of(comparable(text) for (text,) in rows_of(rows, ["source"], "comparing texts"))


def _meeting(metrics: Sequence[str], to_pair: ToPair) -> ToPair:
    """``to_pair``, which then refuses rows whose own answer does not score 1."""

    def checked(row: Row) -> Pair:
        pair = to_pair(row)
        check_references(metrics, pair.references)
        return pair

    return checked


def unmet_notes(metrics: Sequence[str], rights: Rights) -> tuple[str, ...]:
    """Say for each split how many rows there are whose own answer does not score 1, and why.

    Args:
        metrics: Names of scores.
        rights: The references of each row, by split.
    """
    notes = []
    for part, rows in rights.items():
        reasons = [why for row in rows if (why := _why_unmet(metrics, row))]
        if reasons:
            notes.append(f"{len(reasons)} of {len(rows)} {part} rows: {reasons[0]}")
    return tuple(notes)


def _check_met(name: str, metrics: Sequence[str], rights: Rights) -> None:
    """Raise a UserError for a split of which no row's own answer scores 1."""
    for part, rows in rights.items():
        reasons = [_why_unmet(metrics, row) for row in rows]
        if all(reasons):
            raise UserError(f"{name}, {part}, all {len(rows)} rows: {reasons[0]}")


def _single_words(rights: Rights) -> tuple[str, ...]:
    counts = {
        part: sum(
            not _why_unmet(["rouge1"], row) and bool(_why_unmet(["rouge2"], row)) for row in rows
        )
        for part, rows in rights.items()
    }
    return tuple(
        f"{count} of {len(rights[part])} {part} rows have an answer of one word: rouge2 is 0 there"
        for part, count in counts.items()
        if count
    )


def _why_unmet(metrics: Sequence[str], references: Sequence[str]) -> str:
    try:
        check_references(metrics, references)
    except ValueError as error:
        return str(error)
    return ""
