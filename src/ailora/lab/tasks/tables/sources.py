"""Where the rows of a task are: one file, several, a folder, or a data set of the hub.

Hub names are ``owner/name``, ``owner/name/config``, or ``glue/cola``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from ailora.errors import UserError
from ailora.lab.tasks.tables.read import SUFFIXES, find_file, kind_of, read_table
from ailora.lab.tasks.tables.table import Report, Table

Read = Callable[[Path, Report], Table]
# For each split, the names that its file or its hub split may have.
SplitNames = Mapping[str, tuple[str, ...]]
FILES: SplitNames = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}
_HUB_SPLITS: SplitNames = {
    "train": ("train",),
    "dev": ("validation", "validation_matched", "dev"),
    "test": ("test", "test_matched"),
}
# Short names in common use for collections whose repositories have an owner.
_COLLECTIONS = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}
_HIDDEN_LABEL = -1


def read_tables(
    train: Path | str,
    dev: Path | str | None,
    test: Path | str | None,
    *,
    label: str,
    report: Report,
    read: Read = read_table,
) -> dict[str, Table]:
    """Read the splits of the user's own data that are there: ``train``, ``dev`` and ``test``.

    Args:
        train: A csv, tsv, jsonl or json file (a list of objects); a folder with ``train.*`` and
            perhaps ``dev.*`` and ``test.*``; or a hub name.
        dev: A file.
        test: A file.
        label: Column of the answers, for the hub.
        report: Told of broken rows.
        read: Reads one file.

    Raises:
        UserError: Missing or unreadable files, and what ``report`` raises.
    """
    given = {part: Path(file).expanduser() for part, file in (("dev", dev), ("test", test)) if file}
    path = Path(train).expanduser()
    if is_local(train) or not is_hub_name(str(train)):
        files = {**(_files_in(path) if path.is_dir() else {"train": path}), **given}
        return {part: read(file, report) for part, file in files.items()}
    if given:
        raise UserError(f"dev and test files go with a local train file, not with hub {train!r}")
    return _hub_tables(str(train), label)


def read_named_set(
    name: str,
    data: Path | str | None,
    hub: str | None,
    *,
    label: str,
    report: Report,
    read: Read = read_table,
    splits: SplitNames | None = None,
    required: Sequence[str] = ("train",),
) -> dict[str, Table]:
    """Read a set that has a name here, from the user's folder of such sets or from the hub.

    Args:
        name: Name of the set, and of its folder.
        data: The folder that holds the sets; None for the hub.
        hub: Its hub name; None where it is read from local files only.
        label: Column of the answers. A hub split whose labels are hidden counts as absent.
        report: Told of broken rows.
        read: Reads one file.
        splits: Names of the splits, where they are others than usual or not all are wanted.
        required: Splits that must be there.

    Raises:
        UserError: No such folder, file, hub data set or split; and what ``report`` raises.
    """
    if data is not None:
        files = _files_in(folder_of(data, name), splits or FILES, required)
        return {part: read(file, report) for part, file in files.items()}
    if hub is None:
        raise UserError(
            f"task {name!r} is read from local files only; give the folder that holds "
            f"{name}/train.jsonl.gz as data"
        )
    return _hub_tables(hub, label, splits or _HUB_SPLITS, required)


def is_local(train: Path | str) -> bool:
    """Say whether a name means a file or folder rather than a data set of the hub."""
    path = Path(train).expanduser()
    return path.exists() or kind_of(path) is not None


def is_hub_name(name: str) -> bool:
    """Say whether ``name`` has the form of a hub data set: two or three parts with slashes."""
    parts = name.split("/")
    return len(parts) in (2, 3) and all(parts) and not name.startswith((".", "~"))


def name_of(train: Path | str) -> str:
    """Return the file's or folder's name, or the hub's, safe as a part of a file name."""
    path = Path(train).expanduser()
    stem = str(train) if not is_local(train) else path.resolve().name
    if path.is_file():
        stem = re.sub(r"\.(csv|tsv|jsonl|json)(\.gz)?$", "", stem, flags=re.IGNORECASE)
        stem = path.resolve().parent.name if stem == "train" else stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "texts"


def train_file(path: Path) -> Path | None:
    """Return the file with the training rows: the path itself, or ``train.*`` of a folder."""
    return find_file(path, FILES["train"]) if path.is_dir() else path if path.is_file() else None


def folder_of(data: Path | str, name: str) -> Path:
    """Return the folder of a named set below the folder that holds the sets.

    Raises:
        UserError: It does not exist.
    """
    folder = Path(data).expanduser() / name
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; data is the folder that holds {name}/")
    return folder


def file_of(folder: Path, part: str, stems: Sequence[str] | None = None) -> Path:
    """Return the file of one split in a folder.

    Raises:
        UserError: There is none, or there are two.
    """
    found = find_file(folder, stems or FILES[part])
    if found is None:
        names = ", ".join(f"{part}{suffix}" for suffix in SUFFIXES)
        raise UserError(f"{folder} holds no {part} file; expected {names}, each also with .gz")
    return found


def load_from_hub(
    repository: str, config: str | None, *, called: str, instead: str, **options: Any
) -> Any:
    """Call `datasets.load_dataset`.

    Args:
        repository: Owner and name.
        config: Configuration, if it has any.
        called: How a message calls the data set.
        instead: What a message says the user may give instead.
        options: Options of `datasets.load_dataset`.

    Raises:
        UserError: The hub has no such data set or cannot be reached.
    """
    try:
        return datasets.load_dataset(repository, config, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load {called} from the hub: {reason}; check the name and the network, "
            f"or give {instead}"
        ) from error


def _files_in(
    folder: Path, names: SplitNames = FILES, required: Sequence[str] = ("train",)
) -> dict[str, Path]:
    files = {part: find_file(folder, stems) for part, stems in names.items()}
    needed = {part: file_of(folder, part, names[part]) for part in required}
    return {**needed, **{part: file for part, file in files.items() if file is not None}}


def _hub_tables(
    name: str,
    label: str,
    names: SplitNames = _HUB_SPLITS,
    required: Sequence[str] = ("train",),
) -> dict[str, Table]:
    """Load those splits of a hub data set that have labels; GLUE's tests have -1 throughout."""
    loaded = load_from_hub(*_address(name), called=f"data set {name!r}", instead="local files")
    found = {}
    for part, candidates in names.items():
        split = next((candidate for candidate in candidates if candidate in loaded), None)
        if split is not None and not _is_hidden(loaded[split], label):
            found[part] = _hub_table(loaded[split], f"{name} ({split})", label)
    for part in required:
        if part not in found:
            raise UserError(
                f"hub data set {name!r} has no {part} split with labels; choose another"
            )
    return found


def _address(name: str) -> tuple[str, str | None]:
    first, *rest = name.split("/")
    if first in _COLLECTIONS:
        return _COLLECTIONS[first], "/".join(rest)
    return f"{first}/{rest[0]}", rest[1] if len(rest) == 2 else None


def _is_hidden(split: datasets.Dataset, label: str) -> bool:
    return label in split.column_names and set(split[label][:]) == {_HIDDEN_LABEL}


def _hub_table(split: datasets.Dataset, source: str, label: str) -> Table:
    if split.num_rows == 0:
        raise UserError(f"{source} has no rows: an empty split; choose another data set")
    columns = {name: split[name][:] for name in split.column_names}
    names = getattr(split.features.get(label), "names", None)
    if names:
        columns[label] = [_class_name(index, names) for index in columns[label]]
    values = zip(*columns.values(), strict=True)
    rows = (dict(zip(columns, row, strict=True)) for row in values)
    return Table(
        source=source,
        columns=tuple(columns),
        rows=tuple(enumerate(rows, start=1)),
        label_names=tuple(names) if names else None,
    )


def _class_name(index: int | None, names: list[str]) -> str | int | None:
    # -1, GLUE's mark of a hidden label, stays as it is: no class has it, so the row is reported.
    return names[index] if index is not None and 0 <= index < len(names) else index
