"""A data file of any number of rows: what is kept of a row is a few numbers, not its text.

A million rows: ``python -m tests.load.one_file MODEL 1000000``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load.measured import on_linux, said_by

FEW, MANY = 5_000, 45_000
MOST = 300  # bytes per row, whose text has 1,000 characters


def per_row(model: Path, *, keep: bool = False) -> float:
    """Bytes of memory that one more row takes."""
    few, many = (
        said_by("-m", "tests.load.one_file", model, rows, *["keep"] * keep)[-1]["memory"]
        for rows in (FEW, MANY)
    )
    return (many - few) / (MANY - FEW)


@on_linux
@pytest.mark.slow
def test_a_row_takes_a_few_hundred_bytes_whatever_its_text(tiny_model: Path) -> None:
    assert per_row(tiny_model) < MOST


@on_linux
@pytest.mark.slow
def test_a_reader_that_keeps_its_rows_would_be_seen(tiny_model: Path) -> None:
    assert per_row(tiny_model, keep=True) > 2 * MOST
