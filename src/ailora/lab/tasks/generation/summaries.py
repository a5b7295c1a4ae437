"""Summarisation: XSum, CNN/DailyMail, DialogSum and SciTLDR, and documents of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ailora.errors import UserError, instead
from ailora.lab.tasks.generation.pairs import Pair, ToPair, Writing, build_generation_task
from ailora.lab.tasks.tables.sources import is_local, name_of, read_named_set, read_tables
from ailora.lab.tasks.tables.split import Sampling
from ailora.lab.tasks.tables.table import BrokenRows, OnBroken, Row, Table, brief, text_in
from ailora.lab.tasks.task import GenerationTask

# What a decoder reads. A heading that it then writes itself ends its summary.
TEMPLATE = "### Document:\n{source}\n\n### Summary:\n"
METRICS = ("rouge1", "rouge2", "rougeL")
_DOCUMENT, _SUMMARY, _REFERENCES = "document", "summary", "references"


@dataclass(frozen=True, kw_only=True)
class SummarySet:
    """One data set and its usual settings.

    Attributes:
        hub: Repository, perhaps with a configuration (neither was ever reached from here); None
            where the set is read from local files only.
        document: Column of the text, on the hub. Local folders have ``document``.
        summary: Column of the summary, on the hub. Local folders have ``summary``.
        max_source_tokens: Tokens of a document that are read.
        max_new_tokens: Tokens of a summary at most.
        num_beams: Beams of the search.
        basis: Where these three come from.
    """

    hub: str | None
    document: str = _DOCUMENT
    summary: str = _SUMMARY
    max_source_tokens: int
    max_new_tokens: int
    num_beams: int
    basis: str


_OF_BART = (
    "beams: AILoRA, appendix A.3 (and AdaLoRA, section 4.3); lengths: AdaLoRA's script "
    "run_bart_{}.sh, whose settings AILoRA says it follows"
)
_CHOSEN = (
    "chosen here: {} % of the documents and 99 % of the references fit, counted in the word pieces "
    "of BERT; beams as for CNN/DailyMail"
)

SETS: dict[str, SummarySet] = {
    "xsum": SummarySet(
        hub="EdinburghNLP/xsum",
        max_source_tokens=768,
        max_new_tokens=64,
        num_beams=8,
        basis=_OF_BART.format("xsum"),
    ),
    "cnn_dailymail": SummarySet(
        hub="abisee/cnn_dailymail/3.0.0",
        document="article",
        summary="highlights",
        max_source_tokens=1024,
        max_new_tokens=160,
        num_beams=4,
        basis=_OF_BART.format("cnndailymail"),
    ),
    "dialogsum": SummarySet(
        hub=None, max_source_tokens=512, max_new_tokens=96, num_beams=4, basis=_CHOSEN.format(98)
    ),
    "scitldr": SummarySet(
        hub=None, max_source_tokens=512, max_new_tokens=64, num_beams=4, basis=_CHOSEN.format(99)
    ),
}


def load_summarization(
    name: str,
    *,
    data: Path | str | None = None,
    template: str = TEMPLATE,
    metrics: Sequence[str] | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> GenerationTask:
    """Load ``xsum``, ``cnn_dailymail``, ``dialogsum`` or ``scitldr``.

    Args:
        name: The set.
        data: Folder with a folder of that name in it: ``train.jsonl.gz`` and perhaps ``dev`` and
            ``test``, with the columns ``document``, ``summary`` and perhaps ``references``. None
            takes the hub, which has the first two sets as plain data.
        template: What a decoder reads, with ``{source}`` once; an encoder-decoder reads the
            document as it is.
        metrics: Names from `ailora.lab.tasks.generation.text_scores`, the headline first; by
            default ROUGE-1, 2, L.
        split_seed: Seed of the rows that the limits keep, and of splits that had to be made.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: What a row without a document or a summary does: "stop", with file and line, or
            "skip", counted in the notes. None stops at those of local files and skips the hub's.
            A row whose summary cannot score 1 (no word that ROUGE sees) stays and is counted.

    Raises:
        UserError: Unknown set, no such folder, a set that the hub does not have as plain data, or
            anything wrong with rows, metrics or limits, in one line.
    """
    known = _called(name)
    local = data is not None
    document, summary = (_DOCUMENT, _SUMMARY) if local else (known.document, known.summary)
    broken = BrokenRows(on_broken, local=local)
    tables = read_named_set(name, data, known.hub, label=summary, report=broken.report)
    _check_columns(tables, document, summary)
    return build_generation_task(
        name,
        tables,
        _to_pair(document, summary),
        Writing(
            template=template,
            metrics=tuple(METRICS if metrics is None else metrics),
            max_new_tokens=known.max_new_tokens,
            num_beams=known.num_beams,
            max_source_tokens=known.max_source_tokens,
        ),
        Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        broken,
        published=True,
    )


def load_summaries(
    train: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    text: Sequence[str] | None = None,
    label: str = _SUMMARY,
    template: str = TEMPLATE,
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
        metrics: Names from `ailora.lab.tasks.generation.text_scores`, the headline first; by
            default ROUGE-1, 2, L.
        max_new_tokens: Tokens of a summary at most.
        num_beams: Beams of the search.
        split_seed: Seed of the splits made here and of the rows that the limits keep.
        limit: Most rows to train on.
        eval_limit: Most rows of selection and of test each.
        on_broken: As in `load_summarization`, but a row whose summary cannot score 1 is broken.

    Raises:
        UserError: Anything wrong with files, columns, metrics or limits, in one line.
    """
    document = _document_column(text)
    broken = BrokenRows(on_broken, local=is_local(train))
    tables = read_tables(train, dev, test, label=label, report=broken.report)
    _check_columns(tables, document, label)
    return build_generation_task(
        name_of(train),
        tables,
        _to_pair(document, label),
        Writing(
            template=template,
            metrics=tuple(METRICS if metrics is None else metrics),
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
        ),
        Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit),
        broken,
        source=str(train),
        used=_used(tables["train"], document, label),
    )


def _used(table: Table, document: str, summary: str) -> dict[str, str]:
    roles = {"document": document, "summary": summary, "references": _REFERENCES}
    return {role: name for role, name in roles.items() if name in table.columns}


def _called(name: str) -> SummarySet:
    if name in SETS:
        return SETS[name]
    raise UserError(f"no summarisation set is called {name!r}: {instead(name, SETS)}")


def _document_column(text: Sequence[str] | None) -> str:
    names = (_DOCUMENT,) if text is None else (text,) if isinstance(text, str) else tuple(text)
    if len(names) != 1:
        raise UserError(f"one column of documents is needed, got {list(names)!r}")
    return names[0]


def _check_columns(tables: Mapping[str, Table], document: str, summary: str) -> None:
    """Raise a UserError for a table without documents, or without any summaries."""
    for table in tables.values():
        table.require(document, *(() if _REFERENCES in table.columns else (summary,)))


def _to_pair(document: str, summary: str) -> ToPair:
    """A function from a row to what is read, learned and compared.

    The summary is learned. Where a row has ``references``, a list of texts, generated ones are
    compared with those, and a row without a summary learns the first.
    """

    def pair(row: Row) -> Pair:
        source = text_in(row, document)
        given = row.get(_REFERENCES)
        if given is None:
            target = text_in(row, summary)
            return Pair(source=source, target=target, references=(target,))
        references = _texts(given)
        target = references[0] if row.get(summary) is None else text_in(row, summary)
        return Pair(source=source, target=target, references=references)

    return pair


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"column {_REFERENCES!r}: expected a list of one or more texts, got {brief(value)}"
        )
    return tuple(text_in({_REFERENCES: text}, _REFERENCES) for text in value)
