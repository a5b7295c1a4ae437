"""Tables stored by column: Parquet, Arrow and Feather files, and data sets of `datasets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.fingerprint import generate_random_fingerprint
from pyarrow import feather, parquet

from ailora.errors import UserError
from ailora.files import require_file
from ailora.lab.tasks.tables.compressed import file_errors
from ailora.lab.tasks.tables.stored import AT_ONCE, rows_of, stored
from ailora.lab.tasks.tables.table import Place, Row, Rows, Table

# pyarrow's own, and what `datasets` raises, which takes a schema at its word.
_ODD = (pa.ArrowException, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
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
            found = _dataset(path)
        except (OSError, UserError):
            raise
        except _ODD as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{path}: not a {path.suffix.lower()} file: {reason}; make it again"
            ) from error
    if not found.num_rows:
        raise UserError(
            f"{path} has no rows that can be used: an empty split; give a file with rows"
        )
    return table_of(found, str(path), place="row {}")


def schema_of(path: Path) -> pa.Schema:
    """Return names and types of a file's columns.

    Raises:
        OSError, pyarrow.ArrowException: It cannot be read.
    """
    require_file(path)
    if path.suffix.lower() == ".parquet":
        return parquet.read_schema(path)
    return _table(path).schema


def table_of(split: datasets.Dataset, source: str, *, place: str = "") -> Table:
    """A data set as a table: rows by number, or by ``place`` with the number in it."""
    class_names = {
        name: tuple(known)
        for name, feature in split.features.items()
        if (known := getattr(feature, "names", None))
    }

    def rows() -> Iterator[tuple[Place, Row]]:
        for number, values in enumerate(rows_of(split, split.column_names), start=1):
            row = dict(zip(split.column_names, values, strict=True))
            row |= {name: _class_name(row[name], known) for name, known in class_names.items()}
            yield place.format(number) if place else number, row

    return Table(
        source=source,
        columns=tuple(split.column_names),
        rows=Rows(rows, split.num_rows),
        class_names=class_names,
    )


def _dataset(path: Path) -> datasets.Dataset:
    """The file's rows, on disk: mapped where they lie as they are, else written anew.

    Every value is looked at: Arrow takes offsets at their word, and would read beside the file.
    """
    require_file(path)
    if path.suffix.lower() == ".parquet":
        with parquet.ParquetFile(path) as file:
            return stored(_whole(file.iter_batches(AT_ONCE)), file.schema_arrow)
    table = _table(path)
    for _ in _whole(table.to_batches(AT_ONCE)):
        pass
    return datasets.Dataset(table, fingerprint=generate_random_fingerprint())


def _table(path: Path) -> pa.Table:
    if path.suffix.lower() == ".feather":
        return feather.read_table(path, memory_map=True)
    mapped = pa.memory_map(str(path))
    if mapped.read(6) == b"ARROW1":  # `datasets` writes streams; pyarrow and pandas write files
        return pa.ipc.open_file(mapped).read_all()
    mapped.seek(0)
    return pa.ipc.open_stream(mapped).read_all()


def _whole(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _class_name(index: Any, names: Sequence[str]) -> Any:
    # -1, GLUE's mark of a hidden label, stays as it is: no class has it, so the row is reported.
    return names[index] if isinstance(index, int) and 0 <= index < len(names) else index
