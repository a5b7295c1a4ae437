"""Where the rows of a task are: one file, several, a folder, or a data set of the hub.

A folder has a file per split, ``train.csv``, or shards: ``train-00000-of-00003.parquet``, files in
a folder ``train/``, or ``part-*`` of train alone. What a hub name may say stands in ``tables.hub``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ailora.errors import UserError
from ailora.lab.tasks.tables.compressed import bare_name, file_errors
from ailora.lab.tasks.tables.hub import SplitNames, hub_tables, is_hub_name
from ailora.lab.tasks.tables.read import FORMS, find_file, kind_of, read_table
from ailora.lab.tasks.tables.table import Place, Report, Row, Rows, Table

Files = tuple[Path, ...]  # of one split: one file, or its shards
Read = Callable[[Path, Report], Table]
# For each split, the names that its file may have.
FILES: SplitNames = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}
_SHARD = re.compile(r"[-_.]?\d+([-_]of[-_]\d+)?")  # what follows the split's name
# What `datasets` writes beside rows, and what is hidden.
_NO_ROWS = re.compile(r"[._]|cache-|(dataset_info|state|dataset_dict|dataset_infos)\.json$")
_PART = re.compile(r"(part|data|shard)s?[-_.]?\d+.*")


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
        train: A file of any form that `read_table` reads; a folder with ``train.*`` and perhaps
            ``dev.*`` and ``test.*``, or shards of them; or a hub name.
        dev: A file, or a folder of shards; with a hub name, a split.
        test: Likewise.
        label: Column of the answers, for the hub.
        report: Told of broken rows.
        read: Reads one file.

    Raises:
        UserError: Missing or unreadable files, and what ``report`` raises.
    """
    given = {part: str(file) for part, file in (("dev", dev), ("test", test)) if file}
    path = Path(train).expanduser()
    if is_local(train) or not is_hub_name(str(train)):
        files = {**(_files_in(path) if path.is_dir() else {"train": (path,)})}
        files |= {part: shards_of(Path(file).expanduser()) for part, file in given.items()}
        return {part: _read_shards(shards, report, read) for part, shards in files.items()}
    for part, file in given.items():
        if is_local(file):
            raise UserError(
                f"{part}={file!r}: a file goes with a local train file, not with hub {train!r}; "
                "name a split of that"
            )
    return hub_tables(str(train), label, given=given)


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
        return {part: _read_shards(shards, report, read) for part, shards in files.items()}
    if hub is None:
        raise UserError(
            f"task {name!r} is read from local files only; give the folder that holds "
            f"{name}/train.jsonl.gz as data"
        )
    return hub_tables(hub, label, splits=splits, required=required)


def is_local(train: Path | str) -> bool:
    """Say whether a name means a file or folder rather than a data set of the hub."""
    path = Path(train).expanduser()
    return path.exists() or kind_of(path) is not None


def name_of(train: Path | str) -> str:
    """Return the file's or folder's name, or the hub's, safe as a part of a file name."""
    path = Path(train).expanduser()
    stem = str(train) if not is_local(train) else path.resolve().name
    if path.is_file():
        kind = kind_of(path)
        bare = stem[: len(bare_name(stem))]
        stem = bare[: -len(kind)] if kind and bare.lower().endswith(kind) else stem
        stem = path.resolve().parent.name if stem == "train" else stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "texts"


def train_files(path: Path) -> Files:
    """Return the files with the training rows: the path itself, or those of a folder; or none."""
    if path.is_dir():
        one = find_file(path, FILES["train"])
        return (one,) if one else _shards_in(path, FILES["train"]) or _parts_in(path)
    return (path,) if path.is_file() else ()


def shards_of(path: Path) -> Files:
    """Return the files of one split: the path itself, or all tables of a folder.

    Raises:
        UserError: The folder holds none.
    """
    if not path.is_dir():
        return (path,)
    found = _tables_in(path)
    if not found:
        raise UserError(f"{path} holds no table; expected {FORMS}")
    return found


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
        raise UserError(f"{folder} holds no {part} file; expected {part}.csv or another of {FORMS}")
    return found


def _files_in(
    folder: Path, names: SplitNames = FILES, required: Sequence[str] = ("train",)
) -> dict[str, Files]:
    whole = {part: find_file(folder, stems) for part, stems in names.items()}
    files: dict[str, Files] = {part: (one,) if one else () for part, one in whole.items()}
    if not files.get("train"):  # what lies beside a whole train file is no split
        files |= {part: _shards_in(folder, names[part]) for part in names if not files[part]}
    if not any(files.values()) and tuple(required) == ("train",):
        files["train"] = _parts_in(folder)
    for part in required:
        files[part] = files[part] or (file_of(folder, part, names[part]),)
    return {part: found for part, found in files.items() if found}


def _shards_in(folder: Path, stems: Sequence[str]) -> Files:
    """The shards of a split, in the folder or in one of the split's name."""
    tables = _tables_in(folder)
    for stem in stems:
        shards = [
            file
            for file in tables
            if file.name.startswith(stem) and _SHARD.fullmatch(_stem(file).removeprefix(stem))
        ]
        if shards:
            return tuple(shards)
        if (folder / stem).is_dir() and (inside := _tables_in(folder / stem)):
            return inside
    return ()


def _parts_in(folder: Path) -> Files:
    """Shards that are named for no split, which are train's."""
    return tuple(file for file in _tables_in(folder) if _PART.fullmatch(_stem(file)))


def _stem(file: Path) -> str:
    bare = file.name[: len(bare_name(file))]
    return bare[: -len(kind_of(file) or "")]


def _tables_in(folder: Path) -> Files:
    with file_errors(folder):
        files = sorted(folder.iterdir())
    return tuple(
        file for file in files if kind_of(file) and file.is_file() and not _NO_ROWS.match(file.name)
    )


def _read_shards(files: Files, report: Report, read: Read) -> Table:
    """One table of one file or of shards; then a row's place has the name of its shard."""
    if len(files) == 1:
        return read(files[0], report)
    tables = [(file, read(file, report)) for file in files]

    def rows() -> Iterator[tuple[Place, Row]]:
        for file, table in tables:
            for place, row in table.rows:
                yield f"{file.name}{':' if isinstance(place, int) else ' '}{place}", row

    columns = dict.fromkeys(name for _, table in tables for name in table.columns)
    return Table(
        source=str(files[0].parent),
        columns=tuple(columns),
        rows=Rows(rows, sum(len(table.rows) for _, table in tables)),
        class_names=tables[0][1].class_names,
        notes=tuple(note for _, table in tables for note in table.notes),
    )
