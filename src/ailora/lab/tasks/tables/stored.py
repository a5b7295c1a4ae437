"""Rows on disk instead of in memory: Arrow tables in temporary files, a few rows read at a time."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint

from ailora.lab.tasks.tables.watching import watched

AT_ONCE = 1000  # rows held as Python objects


def stored(batches: Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> Dataset:
    """Write record batches to a temporary file and return them as a data set that is mapped.

    The file has no name on most systems, and goes when the data set does.

    Args:
        batches: At least one, unless the schema is given.
        schema: Names and types; None for those of the first batch.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the mapping outlives this function
    writer = None
    for batch in batches:
        writer = writer or pa.ipc.new_stream(file, schema or batch.schema)
        writer.write_batch(batch)
    (writer or pa.ipc.new_stream(file, schema)).close()
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    table = pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()
    # Its fingerprint would be a hash of the whole table; nothing is cached by it here.
    return Dataset(table, fingerprint=generate_random_fingerprint())


def dataset_of(
    rows: Iterable[Sequence[Any]], names: Sequence[str], schema: pa.Schema | None = None
) -> Dataset:
    """Make a data set of rows that need not be in memory together.

    Args:
        rows: Values by column.
        names: Names of the columns.
        schema: Their types; None for those of the first thousand rows.
    """
    return stored(_batches(iter(rows), names, schema), schema)


def rows_of(
    data: Dataset, columns: Sequence[str], doing: str | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of these columns, row by row.

    Args:
        data: The rows.
        columns: Their columns, in the order of the values.
        doing: What is said of it to whoever watches; see `ailora.lab.tasks.tables.watching`.
    """
    chosen = data.select_columns(list(columns))
    found = (
        row
        for batch in chosen.iter(AT_ONCE)
        for row in zip(*(batch[name] for name in columns), strict=True)
    )
    return found if doing is None else watched(found, doing, data.num_rows)


def taken(data: Dataset, indices: Sequence[int]) -> Dataset:
    """Return the rows of these numbers, which rise.

    They lie together then: `Dataset.select` keeps a list of numbers, through which every later read
    of a column is some twenty times slower.
    """
    chosen, schema = np.asarray(indices, np.int64), data.with_format("arrow")[:0].schema

    def batches() -> Iterator[pa.RecordBatch]:
        for begin, batch in zip(
            range(0, data.num_rows, AT_ONCE), data.with_format("arrow").iter(AT_ONCE), strict=True
        ):
            first, last = np.searchsorted(chosen, (begin, begin + AT_ONCE))
            if last > first:
                yield from batch.take(chosen[first:last] - begin).combine_chunks().to_batches()

    return stored(batches(), schema)


def _batches(
    rows: Iterator[Sequence[Any]], names: Sequence[str], schema: pa.Schema | None
) -> Iterator[pa.RecordBatch]:
    while some := list(islice(rows, AT_ONCE)):
        types = schema.types if schema is not None else [None] * len(names)
        arrays = [
            pa.array(list(values), kind)
            for values, kind in zip(zip(*some, strict=True), types, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(arrays, names=list(names))
        if schema is None:
            schema = batch.schema
        yield batch if batch.schema.equals(schema) else batch.cast(schema)
