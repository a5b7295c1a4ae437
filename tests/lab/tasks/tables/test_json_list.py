"""JSON lists become tables whose rows know their lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.tasks.tables.json_list import is_json_list, read_json_list


def file(folder: Path, content: str | bytes, name: str = "a.json") -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("name", ["a.json", "a.JSON.gz"])
def test_values_are_those_that_json_reads(tmp_path: Path, indent: int | None, name: str) -> None:
    rows = [{"a": "x, ]}", "b": [1, {"c": None}]}, {"a": "naïve\n猫", "b": -3.5e2}]
    table = read_json_list(file(tmp_path, json.dumps(rows, indent=indent), name.lower()))
    assert [row for _, row in table.rows] == rows
    assert table.columns == ("a", "b")


def test_each_row_knows_the_line_it_begins_at(tmp_path: Path) -> None:
    text = '\ufeff\n[\n  {"a": 1},\n  {"a":\n    2}, {"a": 3}\n,\n{"a": 4}]\n'
    assert [line for line, _ in read_json_list(file(tmp_path, text)).rows] == [3, 4, 5, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1},\n{"a": }]', "a.json:2: not JSON"),
        ('[{"a": 1}\n{"a": 2}]', "a.json:1: not JSON: no comma"),
        ('[\n{"a": 1},\n', "a.json:3: not JSON"),
        ('[{"a": 1}\n', "a.json:1: not JSON: no comma and no ]"),
        ('[{"a": 1},\n7]', "a.json:2: expected a JSON object, got 7"),
        ('{"a": 1}\n{"a": 2}', "named .jsonl"),
        ("", "expected a list"),
        ('[{"a": 1}\n]\n[{"a": 2}]', "a.json:2: not JSON: the list ends here"),
        ("[]", "no rows"),
        (b'[\n{"a": "\xff"}]', "a.json:2: not UTF-8: byte 0xff"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_broken_is_told_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_json_list(file(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_json_list(tmp_path / "none.json")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"[]")[:-9])
    with pytest.raises(UserError, match="broken gzip"):
        read_json_list(tmp_path / "b.json.gz")


def test_elements_that_are_no_objects_are_left_out_where_the_report_lets_them(
    tmp_path: Path,
) -> None:
    told = []
    table = read_json_list(
        file(tmp_path, '[{"a": 1},\n"x",\n{"a": 2}]'), lambda *what: told.append(what[1])
    )
    assert [row["a"] for _, row in table.rows] == [1, 2]
    assert told == [2]


def test_a_json_list_is_known_by_its_name() -> None:
    assert is_json_list(Path("x.json"))
    assert is_json_list(Path("x.JSON.gz"))
    assert not is_json_list(Path("x.jsonl"))
