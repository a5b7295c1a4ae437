"""Tables stored by column: Parquet, Arrow and Feather files, and data sets of `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from pyarrow import feather, parquet

from ailora.errors import UserError
from ailora.lab.tasks.tables.compressed import file_errors
from ailora.lab.tasks.tables.table import Table

SUFFIXES = (".parquet", ".arrow", ".feather")


def read_columnar(path: Path) -> Table:
    """Read a Parquet, Arrow (file or stream) or Feather file.

    Columns that `datasets` stored as ``ClassLabel`` hold class names. Rows have the place "row N",
    from 1.

    Raises:
        UserError: Missing, unreadable or empty file, or not of the kind that its name says.
    """
    with file_errors(path):
        try:
            found = _arrow_table(path)
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{path}: not a {path.suffix.lower()} file: {reason}; make it again"
            ) from error
    if not found.num_rows:
        raise UserError(
            f"{path} has no rows that can be used: an empty split; give a file with rows"
        )
    return table_of(datasets.Dataset(found), str(path), place="row {}")


def schema_of(path: Path) -> pa.Schema:
    """Return names and types of a file's columns.

    Raises:
        OSError, pyarrow.ArrowException: It cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        return parquet.read_schema(path)
    return _arrow_table(path).schema


def table_of(split: datasets.Dataset, source: str, *, place: str = "") -> Table:
    """A data set as a table: rows by number, or by ``place`` with the number in it."""
    columns = {name: split[name][:] for name in split.column_names}
    class_names = {}
    for name, feature in split.features.items():
        if known := getattr(feature, "names", None):
            columns[name] = [_class_name(index, known) for index in columns[name]]
            class_names[name] = tuple(known)
    values = zip(*columns.values(), strict=True)
    rows = (dict(zip(columns, row, strict=True)) for row in values)
    numbered = enumerate(rows, start=1)
    return Table(
        source=source,
        columns=tuple(columns),
        rows=tuple((place.format(number) if place else number, row) for number, row in numbered),
        class_names=class_names,
    )


def _arrow_table(path: Path) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet.read_table(path)
    if suffix == ".feather":
        return feather.read_table(path)
    with path.open("rb") as stream:  # `datasets` writes streams; pyarrow and pandas write files
        if stream.read(6) == b"ARROW1":
            return pa.ipc.open_file(str(path)).read_all()
        stream.seek(0)
        return pa.ipc.open_stream(stream).read_all()


def _class_name(index: Any, names: Sequence[str]) -> Any:
    # -1, GLUE's mark of a hidden label, stays as it is: no class has it, so the row is reported.
    return names[index] if isinstance(index, int) and 0 <= index < len(names) else index
