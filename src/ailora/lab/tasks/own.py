"""A task of the user's own: rows whose columns tell what kind it is, or a small Python file."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ailora.errors import UserError
from ailora.lab.tasks.base import Task
from ailora.lab.tasks.classification.text import load_text_task
from ailora.lab.tasks.generation.instructions import is_instructions, load_instructions
from ailora.lab.tasks.qa import load_squad, looks_like_questions
from ailora.lab.tasks.summarization import is_summaries, load_summaries
from ailora.lab.tasks.tables.json_list import is_json_list
from ailora.lab.tasks.tables.read import kind_of
from ailora.lab.tasks.tables.sources import train_file

_PEEK = 1 << 20  # characters; a first row that is longer says nothing


def loader_of(train: Path | str) -> Callable[..., Task]:
    """The loader for a file, a folder with ``train.*`` or a hub name, by its columns.

    ``question``, ``context`` and ``answers`` make it question answering, ``document`` and
    ``summary`` summarisation, ``instruction`` and ``output`` instructions; all else, and what is
    on the hub only, is classification or regression.
    """
    path = train_file(Path(train).expanduser())
    if path is None:
        return load_text_task
    columns = _columns(path)
    if looks_like_questions(columns):
        return load_squad
    if is_summaries(columns):
        return load_summaries
    if is_instructions(columns):
        return load_instructions
    return load_text_task


def load_python(path: Path, **options: Any) -> Task:
    """Run a Python file of the user's own and return what its ``load(**options)`` does.

    Raises:
        UserError: There is no such function, or it returns no task.
    """
    load = getattr(run_file(path), "load", None)
    if not callable(load):
        raise UserError(f"{path} has no function load(**options); write one that returns a task")
    task = load(**options)
    if not isinstance(task, Task):
        raise UserError(f"{path}: load() returned a {type(task).__name__}, not a task of ailora")
    return task


def run_file(path: Path) -> ModuleType:
    """Run a Python file of the user's own and return it as a module.

    Raises:
        UserError: It is no Python file.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be run as Python; check the file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _columns(path: Path) -> tuple[str, ...]:
    """Columns of the first row; empty where it cannot be read, which its loader will say."""
    try:
        opened = gzip.open if path.name.lower().endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            start = file.read(_PEEK)
    except (OSError, ValueError, EOFError):
        return ()
    if is_json_list(path):
        return _columns_of_document(start)
    first = next((line for line in start.splitlines() if line.strip()), "")
    if kind_of(path) == ".jsonl":
        return _keys(first)
    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    header = next(csv.reader(io.StringIO(first), delimiter=delimiter), [])
    return tuple(name.strip() for name in header)


def _columns_of_document(start: str) -> tuple[str, ...]:
    """SQuAD's own JSON is an object with ``data``; a list of rows has objects."""
    if start.lstrip().startswith("{"):
        return ("question", "context", "answers")
    body = start[start.find("{") :]
    try:
        return tuple(json.JSONDecoder().raw_decode(body)[0])
    except ValueError:
        return ()


def _keys(line: str) -> tuple[str, ...]:
    try:
        row = json.loads(line)
    except ValueError:
        return ()
    return tuple(row) if isinstance(row, dict) else ()
