"""Documents with summaries in files of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ailora.errors import UserError
from ailora.lab.tasks.base import GenerationTask
from ailora.lab.tasks.generation.pairs import Writing, build_generation_task
from ailora.lab.tasks.summarization import rows
from ailora.lab.tasks.tables.broken import BrokenRows, OnBroken, rule_for
from ailora.lab.tasks.tables.sources import is_local, name_of, read_tables
from ailora.lab.tasks.tables.split import Sampling


def is_summaries(columns: Sequence[str]) -> bool:
    """Say whether a table with these columns is read by `load_summaries` without naming any."""
    return "document" in columns and ("summary" in columns or rows.REFERENCES in columns)


def load_summaries(
    train: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    text: Sequence[str] | None = None,
    label: str = "summary",
    template: str = rows.TEMPLATE,
    metrics: Sequence[str] | None = None,
    max_new_tokens: int = 96,
    num_beams: int = 4,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> GenerationTask:
    """Read documents with summaries; splits that are missing are made.

    Args:
        train: A csv, tsv, jsonl or json file (a list of objects), a folder with ``train.*``, or a
            hub name.
        dev: A file, beside a train file.
        test: A file, beside a train file.
        text: Name of the one document column; None takes ``document``.
        label: Name of the summary column. A column ``references`` (jsonl or json: a list of texts)
            holds all summaries that are right, of which the best counts; a row that has it needs
            no summary, and learns the first.
        template: What a decoder reads, with ``{source}`` once.
        metrics: Names from `ailora.lab.tasks.generation.generated`, the headline first; by default
            ROUGE-1, 2, L.
        max_new_tokens: Tokens of a summary at most.
        num_beams: Of the search.
        split_seed: Of the splits made here and of the rows the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: As in `load_summarization`.

    Raises:
        UserError: Anything wrong with files, columns, metrics or limits, in one line.
    """
    document = _one(text)
    broken = BrokenRows(rule_for(on_broken, local=is_local(train)))
    tables = read_tables(train, dev, test, label=label, report=broken.report)
    rows.check(tables, document, label)
    return build_generation_task(
        name_of(train),
        tables,
        rows.to_pair(document, label),
        Writing(
            template=template,
            metrics=tuple(rows.METRICS if metrics is None else metrics),
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
        ),
        Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        broken,
    )


def _one(text: Sequence[str] | None) -> str:
    names = ("document",) if text is None else (text,) if isinstance(text, str) else tuple(text)
    if len(names) != 1:
        raise UserError(f"one column of documents is needed, got {list(names)!r}")
    return names[0]
