"""Extractive question answering: SQuAD v1.1 and v2.0, XQuAD in English, and your own files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ailora.lab.tasks.base import QATask, fingerprint_of
from ailora.lab.tasks.qa.read import read_questions
from ailora.lab.tasks.qa.rows import Question, checked, learnable, to_dataset
from ailora.lab.tasks.qa.split import at_most, complete, shared_contexts
from ailora.lab.tasks.tables.broken import BrokenRows, OnBroken, rule_for
from ailora.lab.tasks.tables.hub import hub_tables
from ailora.lab.tasks.tables.read import Table
from ailora.lab.tasks.tables.sources import file_of, folder_of, is_local, name_of, read_tables
from ailora.lab.tasks.tables.split import Sampling

_log = logging.getLogger(__name__)

METRICS = ("f1", "exact_match")
_ID = "id"  # the hub's tables are asked for by a label, and hide splits by it; an id hides none


def load_squad(
    source: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    name: str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> QATask:
    """Read questions whose answers are spans of a context.

    Without a test split, dev is the test split (as papers report SQuAD) and a tenth of train is
    held out for selection; with train alone, another tenth is the test split. What is held out
    shares no context with what is kept. Limits apply after that. ``ailora.lab.tasks.qa.rows`` says
    which columns there may be.

    Args:
        source: A jsonl, csv or tsv file with a question a row, or a file in SQuAD's own JSON, v1.1
            or v2.0 (each also ``.gz``); a folder with ``train.*`` and perhaps ``dev.*`` and
            ``test.*``; or a hub name such as ``rajpurkar/squad_v2``.
        dev: A file, beside a train file or folder.
        test: Likewise.
        name: Of the task; None makes one of ``source``.
        split_seed: Of the splits made here and of the rows the limits keep.
        limit: Most questions to train on.
        eval_limit: Most questions of selection and of test each.
        on_broken: What a row without id, question or context, or with answers of another form,
            does: "stop", with file and line, or "skip", counted in the notes. None stops at those
            of local files and skips the hub's. A training answer that does not stand in its
            context at its start is left out and counted, unless "stop" is said outright.

    Returns:
        The task; ``has_unanswerable`` if any question of any split has no answers.

    Raises:
        UserError: Anything wrong with files, rows or limits, in one line with its place.
    """
    broken = BrokenRows(rule_for(on_broken, local=is_local(source)))
    tables = read_tables(source, dev, test, label=_ID, report=broken.report, read=read_questions)
    sampling = Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit)
    return _task(name or name_of(source), tables, sampling, broken, strict=on_broken == "stop")


def load_squad_v1(
    *,
    data: Path | str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> QATask:
    """SQuAD v1.1 (Rajpurkar et al. 2016): its dev set is the test split.

    Args:
        data: Folder with ``squad_v1/train.*`` and ``squad_v1/dev.*``; None for the hub.
        split_seed: As for `load_squad`, like the limits.
        limit: Most questions to train on.
        eval_limit: Most questions of selection and of test each.
        on_broken: As for `load_squad`.

    Raises:
        UserError: As `load_squad`.
    """
    return load_squad(
        folder_of(data, "squad_v1") if data else "rajpurkar/squad",
        name="squad_v1",
        split_seed=split_seed,
        limit=limit,
        eval_limit=eval_limit,
        on_broken=on_broken,
    )


def load_squad_v2(
    *,
    data: Path | str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> QATask:
    """SQuAD v2.0 (Rajpurkar et al. 2018), with questions that have no answer; else as v1.1."""
    return load_squad(
        folder_of(data, "squad_v2") if data else "rajpurkar/squad_v2",
        name="squad_v2",
        split_seed=split_seed,
        limit=limit,
        eval_limit=eval_limit,
        on_broken=on_broken,
    )


def load_xquad_en(
    *,
    data: Path | str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> QATask:
    """Trained as SQuAD v1.1, tested on the 1,190 questions of its dev set that are XQuAD's.

    Args:
        data: Folder with ``squad_v1/train.*`` and ``xquad_en/dev.*``; None for the hub.
        split_seed: As for `load_squad`, like the limits.
        limit: Most questions to train on.
        eval_limit: Most questions of selection and of test each.
        on_broken: As for `load_squad`.

    Raises:
        UserError: As `load_squad`.
    """
    broken = BrokenRows(rule_for(on_broken, local=data is not None))
    if data:
        files = {"train": ("squad_v1", "train"), "test": ("xquad_en", "dev")}
        tables = {
            part: read_questions(file_of(folder_of(data, name), split), broken.report)
            for part, (name, split) in files.items()
        }
    else:
        tables = {
            "train": hub_tables("rajpurkar/squad", _ID)["train"],
            "test": hub_tables("google/xquad/xquad.en", _ID)["dev"],
        }
    sampling = Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit)
    return _task("xquad_en", tables, sampling, broken, strict=on_broken == "stop")


def _task(
    name: str,
    tables: Mapping[str, Table],
    sampling: Sampling,
    broken: BrokenRows,
    *,
    strict: bool,
) -> QATask:
    parts = {
        part: checked(table, broken.report, strict=strict and part == "train")
        for part, table in tables.items()
    }
    unanswerable = any(not row.texts for questions in parts.values() for row in questions)
    train, left_out = learnable(parts["train"])
    splits, made = complete(train, parts.get("dev"), parts.get("test"), seed=sampling.seed)
    limits = (sampling.limit, sampling.eval_limit, sampling.eval_limit)
    train_set, selection, test = (
        to_dataset(at_most(questions, most, seed=sampling.seed))
        for questions, most in zip(splits, limits, strict=True)
    )
    shared = shared_contexts(train=train_set, selection=selection, test=test)
    notes = (*broken.notes(), *left_out, *_misplaced(splits[1:]), *made, *shared)
    for note in notes:
        _log.info("%s: %s", name, note)
    return QATask(
        name=name,
        train=train_set,
        selection=selection,
        test=test,
        metrics=METRICS,
        fingerprint=fingerprint_of((train_set, selection, test), unanswerable),
        notes=notes,
        has_unanswerable=unanswerable,
    )


def _misplaced(splits: Sequence[Sequence[Question]]) -> tuple[str, ...]:
    notes = []
    for name, questions in zip(("selection", "test"), splits, strict=True):
        count = sum(len(row.placed) - sum(row.placed) for row in questions)
        if count:
            notes.append(f"{name}: {count} answers not in their context at answer_start kept")
    return tuple(notes)
