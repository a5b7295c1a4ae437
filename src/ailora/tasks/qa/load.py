"""Extractive question answering: SQuAD v1.1 and v2.0, XQuAD in English, and your own files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ailora.errors import UserError
from ailora.tasks.base import QATask, fingerprint_of
from ailora.tasks.qa.read import RawRow, read_questions, rows_of
from ailora.tasks.qa.rows import Question, checked, learnable, to_dataset
from ailora.tasks.qa.split import at_most, complete, shared_contexts
from ailora.tasks.tables.hub import hub_tables, is_hub_name
from ailora.tasks.tables.json_list import is_json_list
from ailora.tasks.tables.read import SUFFIXES, kind_of

_log = logging.getLogger(__name__)

METRICS = ("f1", "exact_match")
_KINDS = (*SUFFIXES, ".json")
_STEMS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
Rows = dict[str, Sequence[RawRow]]


def load_squad(
    source: Path | str,
    *,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    name: str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
) -> QATask:
    """Read questions whose answers are spans of a context.

    Without a test split, dev is the test split (as papers report SQuAD) and a tenth of train is
    held out for selection; with train alone, another tenth is the test split. What is held out
    shares no context with what is kept. Limits apply after that. ``ailora.tasks.qa.rows`` says
    which columns there may be and what becomes of broken rows.

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

    Returns:
        The task; ``has_unanswerable`` if any question of any split has no answers.

    Raises:
        UserError: Anything wrong with files, rows or limits, in one line with its place.
    """
    given = {part: Path(file).expanduser() for part, file in (("dev", dev), ("test", test)) if file}
    rows = {**_rows_of(str(source), given), **{p: read_questions(f) for p, f in given.items()}}
    return _task(name or _safe_name(str(source)), rows, split_seed, limit, eval_limit)


def load_squad_v1(
    *,
    data: Path | str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
) -> QATask:
    """SQuAD v1.1 (Rajpurkar et al. 2016): its dev set is the test split.

    Args:
        data: Folder with ``squad_v1/train.*`` and ``squad_v1/dev.*``; None for the hub.
        split_seed: As for `load_squad`, like the limits.
        limit: Most questions to train on.
        eval_limit: Most questions of selection and of test each.

    Raises:
        UserError: As `load_squad`.
    """
    source = Path(data) / "squad_v1" if data else "rajpurkar/squad"
    return load_squad(
        source, name="squad_v1", split_seed=split_seed, limit=limit, eval_limit=eval_limit
    )


def load_squad_v2(
    *,
    data: Path | str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
) -> QATask:
    """SQuAD v2.0 (Rajpurkar et al. 2018), with questions that have no answer; else as v1.1."""
    source = Path(data) / "squad_v2" if data else "rajpurkar/squad_v2"
    return load_squad(
        source, name="squad_v2", split_seed=split_seed, limit=limit, eval_limit=eval_limit
    )


def load_xquad_en(
    *,
    data: Path | str | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    eval_limit: int | None = None,
) -> QATask:
    """Trained as SQuAD v1.1, tested on the 1,190 questions of its dev set that are XQuAD's.

    Args:
        data: Folder with ``squad_v1/train.*`` and ``xquad_en/dev.*``; None for the hub.
        split_seed: As for `load_squad`, like the limits.
        limit: Most questions to train on.
        eval_limit: Most questions of selection and of test each.

    Raises:
        UserError: As `load_squad`.
    """
    if data:
        rows: Rows = {"train": read_questions(_only(Path(data) / "squad_v1", "train"))}
        rows["test"] = read_questions(_only(Path(data) / "xquad_en", "dev"))
    else:
        rows = {"train": _hub_rows("rajpurkar/squad")["train"]}
        rows["test"] = _hub_rows("google/xquad/xquad.en")["dev"]
    return _task("xquad_en", rows, split_seed, limit, eval_limit)


def _task(
    name: str, rows: Rows, split_seed: int, limit: int | None, eval_limit: int | None
) -> QATask:
    parts = {part: checked(raw) for part, raw in rows.items()}
    if "train" not in parts:
        raise UserError(f"{name} has no train split; choose another data set")
    unanswerable = any(not row.texts for questions in parts.values() for row in questions)
    train, left_out = learnable(parts["train"])
    splits, made = complete(train, parts.get("dev"), parts.get("test"), seed=split_seed)
    limits = (limit, eval_limit, eval_limit)
    train_set, selection, test = (
        to_dataset(at_most(questions, most, seed=split_seed))
        for questions, most in zip(splits, limits, strict=True)
    )
    shared = shared_contexts(train=train_set, selection=selection, test=test)
    notes = (*left_out, *_misplaced(splits[1:]), *made, *shared)
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


def _rows_of(source: str, given: dict[str, Path]) -> Rows:
    path = Path(source).expanduser()
    if path.is_dir():
        files = {part: _file_in(path, part) for part in _STEMS if part not in given}
        if files["train"] is None:
            _only(path, "train")
        return {part: read_questions(file) for part, file in files.items() if file}
    if path.is_file() or kind_of(path) or is_json_list(path):
        return {"train": read_questions(path)}
    if not is_hub_name(source):
        raise UserError(f"{source} does not exist; check the path")
    return _hub_rows(source)


def _hub_rows(name: str) -> Rows:
    # The hub's tables are asked for by a label, and hide splits by it; an id hides none.
    return {part: rows_of(table) for part, table in hub_tables(name, "id").items()}


def _only(folder: Path, part: str) -> Path:
    found = _file_in(folder, part)
    if found is None:
        kinds = ", ".join(f"{part}{kind}" for kind in _KINDS)
        raise UserError(f"{folder} holds no {part} file; expected {kinds}, each also with .gz")
    return found


def _file_in(folder: Path, part: str) -> Path | None:
    names = [f"{stem}{kind}{gz}" for stem in _STEMS[part] for kind in _KINDS for gz in ("", ".gz")]
    files = [folder / name for name in sorted(names) if (folder / name).is_file()]
    if len(files) > 1:
        both = " and ".join(file.name for file in files)
        raise UserError(f"{folder} has {both} for {part}; keep one")
    return files[0] if files else None


def _safe_name(source: str) -> str:
    path = Path(source)
    kind = next((end for end in _KINDS if path.name.removesuffix(".gz").endswith(end)), None)
    if kind is not None:
        stem = path.name.removesuffix(".gz").removesuffix(kind)
        source = path.absolute().parent.name if stem == "train" else stem
    elif path.is_dir():
        source = path.resolve().name
    return re.sub(r"[^\w.-]+", "-", source).strip("-.") or "questions"
