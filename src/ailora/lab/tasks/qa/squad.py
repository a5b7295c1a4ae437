"""Extractive question answering: SQuAD v1.1 and v2.0, XQuAD in English, and your own files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from ailora.errors import UserError
from ailora.files import parse_json
from ailora.lab.tasks.qa.answers import is_bare
from ailora.lab.tasks.qa.questions import Learnable, is_placed, questions_in, to_dataset
from ailora.lab.tasks.statement import Statement, columns_left_out, notes_of
from ailora.lab.tasks.tables.hub import SplitNames
from ailora.lab.tasks.tables.read import kind_of, read_table, read_text
from ailora.lab.tasks.tables.repeats import case_keys, shared
from ailora.lab.tasks.tables.sources import (
    FILES,
    is_local,
    name_of,
    read_named_set,
    read_tables,
)
from ailora.lab.tasks.tables.split import (
    Sampling,
    Splits,
    WholeGroups,
    complete,
    limited,
)
from ailora.lab.tasks.tables.stored import rows_of
from ailora.lab.tasks.tables.table import (
    BrokenRows,
    OnBroken,
    Report,
    Row,
    Rows,
    Table,
    brief,
    stop,
)
from ailora.lab.tasks.task import QATask, fingerprint_of, log_notes, without_places

METRICS = ("f1", "exact_match")
SQUAD = {
    "squad_v1": "rajpurkar/squad",
    "squad_v2": "rajpurkar/squad_v2",
    "xquad_en": "google/xquad/xquad.en",
}
_ID = "id"  # the hub's tables are asked for by a label, and hide splits by it; an id hides none
_COLUMNS = (
    *("id", "title", "question", "context", "answers", "answer", "answer_start"),
    "is_impossible",
)
_LIST = re.compile(r"\s*\[\s*\{")  # a json file that is a list of rows, not SQuAD's document
# Many questions are asked about one context: no two splits share one.
_DRAW = WholeGroups(groups={"article": "title", "context": "context"}, noun="questions")


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
    shares no context with what is kept. Limits apply after that. `questions_in` of
    ``ailora.lab.tasks.qa.questions`` says which columns there may be.

    Args:
        source: A jsonl, csv or tsv file with one question per row, or a file in SQuAD's own JSON,
            v1.1 or v2.0 (each also ``.gz``); a folder with ``train.*`` and perhaps ``dev.*`` and
            ``test.*``; or a hub name such as ``rajpurkar/squad_v2``.
        dev: A file, beside a train file or folder.
        test: Likewise.
        name: Name of the task; None makes one of ``source``.
        split_seed: Seed of the splits made here and of the rows that the limits keep.
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
    broken = BrokenRows(on_broken, local=is_local(source))
    tables = read_tables(source, dev, test, label=_ID, report=broken.report, read=read_questions)
    sampling = Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit)
    strict = on_broken == "stop"
    return _task(name or name_of(source), tables, sampling, broken, strict=strict, source=source)


def load_squad_set(
    name: str,
    *,
    data: Path | str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
    on_broken: OnBroken | None = None,
) -> QATask:
    """Load ``squad_v1``, ``squad_v2`` or ``xquad_en``; the official dev set is the test split.

    SQuAD v2.0 (Rajpurkar et al. 2018) has questions without an answer, v1.1 (2016) has none.
    ``xquad_en`` is trained as SQuAD v1.1 and tested on the 1,190 questions of its dev set that are
    XQuAD's.

    Args:
        name: Key of ``SQUAD``.
        data: Folder with ``<name>/train.*`` and ``<name>/dev.*`` (``squad_v1/train.*`` and
            ``xquad_en/dev.*`` for ``xquad_en``); None for the hub.
        split_seed: As for `load_squad`, like the limits.
        limit: Most questions to train on.
        eval_limit: Most questions of selection and of test each.
        on_broken: As for `load_squad`.

    Raises:
        UserError: No such set; else as `load_squad`.
    """
    if name not in SQUAD:
        raise UserError(f"no set of questions is called {name!r}; there are {', '.join(SQUAD)}")
    broken = BrokenRows(on_broken, local=data is not None)

    def read(folder: str, splits: SplitNames | None, required: str) -> dict[str, Table]:
        return read_named_set(
            folder,
            data,
            SQUAD[folder],
            label=_ID,
            report=broken.report,
            read=read_questions,
            splits=splits,
            required=(required,),
        )

    if name == "xquad_en":
        tables = read("squad_v1", {"train": FILES["train"]}, "train")
        tables |= read(name, {"test": FILES["dev"]}, "test")
    else:
        tables = read(name, None, "train")
    sampling = Sampling(seed=split_seed, limit=limit, eval_limit=eval_limit)
    return _task(name, tables, sampling, broken, strict=on_broken == "stop")


load_squad_v1 = partial(load_squad_set, "squad_v1")
load_squad_v2 = partial(load_squad_set, "squad_v2")
load_xquad_en = partial(load_squad_set, "xquad_en")


def read_questions(path: Path, report: Report = stop) -> Table:
    """Read jsonl, csv or tsv with one question per row, or a file in SQuAD's format (v1.1 or v2.0).

    Args:
        path: The file.
        report: Told of each row, or part of a document, that is no object; unless it raises, it
            is left out. Rows of a document have their place in it for a line.

    Raises:
        UserError: Missing, unreadable or empty file, not UTF-8, not JSON, or another structure;
            with the line, or with the place inside the document.
    """
    if kind_of(path) != ".json" or _LIST.match(read_text(path)):
        return read_table(path, report)
    rows = tuple(_questions(str(path), _document(path), report))
    if not rows:
        raise UserError(f"{path} has no questions: an empty split; give a file with some")
    held = Rows(lambda: rows, len(rows))  # one document is read whole
    return Table(source=str(path), columns=tuple(rows[0][1]), rows=held)


def _document(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}; mend the file") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; mend the file") from error


def _questions(source: str, document: Any, report: Report) -> Iterator[tuple[str, Row]]:
    for article_at, article in _children(source, "", document, "data", report):
        for at, paragraph in _children(source, article_at, article, "paragraphs", report):
            for place, question in _children(source, at, paragraph, "qas", report):
                outer = {"title": article.get("title"), "context": paragraph.get("context")}
                yield place, {**question, **outer}


def _children(
    source: str, place: str, parent: Any, key: str, report: Report
) -> Iterator[tuple[str, Row]]:
    before = f"{place}." if place else ""
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list):
        raise UserError(
            f"{source}: {before}no list {key!r}; expected SQuAD's data, paragraphs and qas, or a "
            "jsonl file"
        )
    for index, child in enumerate(found):
        at = f"{before}{key}[{index}]"
        if isinstance(child, dict):
            yield at, child
        else:
            report(source, at, f"expected a JSON object, got {brief(child)}; mend the file")


def _task(
    name: str,
    tables: Mapping[str, Table],
    sampling: Sampling,
    broken: BrokenRows,
    *,
    strict: bool,
    source: Path | str = "",
) -> QATask:
    parts, learned = {}, Learnable()
    for part, table in tables.items():
        found = questions_in(table, broken.report, strict=strict and part == "train")
        parts[part] = to_dataset(learned.of(found) if part == "train" else found)
    unanswerable = learned.unanswerable or any(
        not answers["text"]
        for part, rows in parts.items()
        if part != "train"
        for (answers,) in rows_of(rows, ["answers"])
    )
    left_out = learned.notes()
    whole, made = complete(parts, seed=sampling.seed, draw=_DRAW)
    misplaced = _misplaced(selection=whole[1], test=whole[2])
    train, selection, test = limited(whole, sampling, _DRAW)
    splits, places = without_places(
        (
            train.remove_columns("title"),
            selection.remove_columns("title"),
            test.remove_columns("title"),
        )
    )
    train, selection, test = splits
    bare = _bare(selection=selection, test=test) if source else ()
    leaks, read = _shared_contexts(splits), (*broken.notes(), *notes_of(tables), *bare)
    notes = (*read, *left_out, *misplaced, *made, *leaks)
    log_notes(name, notes)
    return QATask(
        name=name,
        train=train,
        selection=selection,
        test=test,
        metrics=METRICS,
        fingerprint=fingerprint_of(splits, unanswerable),
        notes=notes,
        has_unanswerable=unanswerable,
        places=places,
        literal=bool(source),
        statement=Statement(
            kind="questions on texts" + (", some without an answer" if unanswerable else ""),
            source=str(source) or name,
            used=_used(tables["train"]) if source else {},
            left_out=columns_left_out(tables["train"], _COLUMNS) if source else (),
            rows={"train": len(train), "selection": len(selection), "test": len(test)},
            remarks=(*read, *left_out, *misplaced, *leaks),
            made=made,
        ),
    )


def _used(table: Table) -> dict[str, str]:
    answers = "answers" if "answers" in table.columns else "answer"
    return {"question": "question", "text": "context", "answers": answers}


def _misplaced(**splits: Dataset) -> tuple[str, ...]:
    notes = []
    for name, rows in splits.items():
        count = sum(
            not is_placed(context, text, start)
            for context, answers in rows_of(rows, ["context", "answers"])
            for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        )
        if count:
            notes.append(f"{name}: {count} answers not in their context at answer_start kept")
    return tuple(notes)


def _bare(**splits: Dataset) -> tuple[str, ...]:
    """Say how many questions have right answers of which SQuAD's rules leave nothing."""
    notes = []
    for name, rows in splits.items():
        found = [
            answers["text"][0]
            for (answers,) in rows_of(rows, ["answers"])
            if is_bare(answers["text"])
        ]
        if found:
            notes.append(
                f"{name}: {len(found)} answers such as {brief(found[0])} are compared as they are, "
                "since SQuAD's rules take away articles and punctuation"
            )
    return tuple(notes)


def _shared_contexts(splits: Splits) -> tuple[str, ...]:
    contexts = {
        name: case_keys(rows, ["context"]).folded
        for name, rows in zip(("train", "selection", "test"), splits, strict=True)
    }
    return tuple(
        f"{found.repeated} of {found.rows} {found.later} questions have a context of "
        f"{found.earlier}"
        for found in shared(contexts)
        if found.repeated
    )
