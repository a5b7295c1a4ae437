"""Rows that cannot be used stop the reading or are left out and counted, with their place."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from ailora.errors import UserError
from ailora.lab.tasks.tables.table import (
    BrokenRows,
    OnBroken,
    Row,
    Rows,
    Table,
    text_in,
    usable_rows,
)


def table(*texts: Any) -> Table:
    rows = tuple((line, {"text": text}) for line, text in enumerate(texts, start=2))
    return Table(source="a.csv", columns=("text",), rows=Rows(lambda: rows, len(rows)))


def text(row: Row) -> str:
    return text_in(row, "text")


def test_rows_that_cannot_be_used_are_left_out_and_counted_with_the_place_of_the_first() -> None:
    broken = BrokenRows("skip", local=True)
    found = list(usable_rows(table("x", "", None, "y"), text, broken.report))
    assert found == [("a.csv:2", "x"), ("a.csv:5", "y")]
    reason = "column 'text': expected text, got ''; fill it in or drop the row"
    assert broken.notes() == (f"2 broken rows left out; the first is a.csv:3: {reason}",)


def test_the_first_stops_where_the_rule_is_to_stop() -> None:
    for report in ((), (BrokenRows("stop", local=False).report,)):
        with pytest.raises(UserError, match=r"a\.csv:3: column 'text'"):
            list(usable_rows(table("x", ""), text, *report))


def test_a_row_with_the_id_of_an_earlier_one_is_broken_but_not_of_one_left_out() -> None:
    broken = BrokenRows("skip", local=True)
    rows = usable_rows(table("x", "y", "x", "z"), text, broken.report, identity=str)
    assert [value for _, value in rows] == ["x", "y", "z"]
    assert "a.csv:4: id 'x' is also at a.csv:2" in broken.notes()[0]


def test_no_row_left_is_an_empty_split() -> None:
    with pytest.raises(UserError, match=r"a\.csv has no rows that can be used: an empty split"):
        list(usable_rows(table("", None), text, lambda *_: None))


@pytest.mark.parametrize(("local", "rule"), [(True, "stop"), (False, "skip")])
def test_local_files_stop_and_hub_data_are_skipped_unless_said(*, local: bool, rule: str) -> None:
    for said in (None, *get_args(OnBroken)):
        broken = BrokenRows(said, local=local)
        if (said or rule) == "stop":
            with pytest.raises(UserError):
                broken.report("a", 1, "no")
        else:
            broken.report("a", 1, "no")
    with pytest.raises(UserError, match="on_broken='drop': must be stop or skip"):
        BrokenRows("drop", local=local)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "", "  ", True, [1], {"a": 1}])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="column 'text': expected text, got"):
        text_in({"text": value}, "text")


@pytest.mark.parametrize("value", [3, -2.5])
def test_a_number_is_taken_as_it_is_written_or_refused(value: float) -> None:
    assert text_in({"text": value}, "text") == str(value)
    with pytest.raises(ValueError, match="expected text"):
        text_in({"text": value}, "text", numbers=False)


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(ValueError, match="column 'text': half a surrogate pair at character 2"):
        text_in({"text": "ab\ud800"}, "text")
