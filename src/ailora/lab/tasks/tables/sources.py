"""Where the rows of a task of your own are: one file, several, a folder, or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ailora.errors import UserError
from ailora.lab.tasks.tables import hub
from ailora.lab.tasks.tables.broken import Report
from ailora.lab.tasks.tables.json_list import is_json_list, read_json_list
from ailora.lab.tasks.tables.read import KINDS, Table, find_file, kind_of, read_table

Read = Callable[[Path, Report], Table]
_STEMS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}


def read_tables(
    train: Path | str,
    dev: Path | str | None,
    test: Path | str | None,
    *,
    label: str,
    report: Report,
    read: Read | None = None,
) -> dict[str, Table]:
    """Read the splits that are there, by ``train``, ``dev`` and ``test``.

    Args:
        train: A csv, tsv, jsonl or json file (a list of objects); a folder with ``train.*`` and
            perhaps ``dev.*`` and ``test.*``; or a hub name.
        dev: A file.
        test: A file.
        label: Column of the answers, for the hub.
        report: Told of broken rows.
        read: Reads one file; None is `read_file`.

    Raises:
        UserError: Missing or unreadable files, and what ``report`` raises.
    """
    given = {part: Path(file).expanduser() for part, file in (("dev", dev), ("test", test)) if file}
    path = Path(train).expanduser()
    if is_local(train) or not hub.is_hub_name(str(train)):
        files = {**(_files_in(path) if path.is_dir() else {"train": path}), **given}
        return {part: (read or read_file)(file, report) for part, file in files.items()}
    if given:
        raise UserError(f"dev and test files go with a local train file, not with hub {train!r}")
    tables = hub.hub_tables(str(train), label)
    if "train" not in tables:
        raise UserError(f"hub data set {train!r} has no train split; choose another")
    return tables


def is_local(train: Path | str) -> bool:
    """Say whether a name means a file or folder rather than a data set of the hub."""
    path = Path(train).expanduser()
    return path.exists() or kind_of(path) is not None or is_json_list(path)


def name_of(train: Path | str) -> str:
    """Return the file's or folder's name, or the hub's, safe as a part of a file name."""
    path = Path(train).expanduser()
    stem = str(train) if not is_local(train) else path.resolve().name
    if path.is_file():
        stem = re.sub(r"\.(csv|tsv|jsonl|json)(\.gz)?$", "", stem, flags=re.IGNORECASE)
        stem = path.resolve().parent.name if stem == "train" else stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "texts"


def train_file(path: Path) -> Path | None:
    """The file that training rows are in: the path itself, or ``train.*`` of a folder."""
    return find_file(path, _STEMS["train"]) if path.is_dir() else path if path.is_file() else None


def folder_of(data: Path | str, name: str) -> Path:
    """The folder of a named set below the folder that holds the sets.

    Raises:
        UserError: It does not exist.
    """
    folder = Path(data).expanduser() / name
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; data is the folder that holds {name}/train.*")
    return folder


def file_of(folder: Path, part: str) -> Path:
    """The file of ``train``, ``dev`` or ``test`` in a folder.

    Raises:
        UserError: There is none, or there are two.
    """
    found = find_file(folder, _STEMS[part])
    if found is None:
        kinds = ", ".join(f"{part}{kind}" for kind in KINDS)
        raise UserError(f"{folder} holds no {part} file; expected {kinds}, each also with .gz")
    return found


def read_file(path: Path, report: Report) -> Table:
    """Read a table, or a json file with a list of objects."""
    return read_json_list(path, report) if is_json_list(path) else read_table(path, report)


def _files_in(folder: Path) -> dict[str, Path]:
    files = {part: find_file(folder, stems) for part, stems in _STEMS.items()}
    found = {part: file for part, file in files.items() if file is not None}
    return {"train": file_of(folder, "train"), **found}
