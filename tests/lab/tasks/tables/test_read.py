"""Files are read exactly, and a broken one is named with its line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.tasks.tables.read import kind_of, read_table
from ailora.lab.tasks.tables.table import Table


def table(folder: Path, name: str, content: bytes | str) -> Table:
    return read_table(written(folder, name, content))


def written(folder: Path, name: str, content: bytes | str) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def error_of(folder: Path, name: str, content: bytes | str) -> str:
    with pytest.raises(UserError) as caught:
        table(folder, name, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SAME = {
    "a.csv": "text,label\nhello,x\nwörld,y\n",
    "a.tsv": "text\tlabel\nhello\tx\nwörld\ty\n",
    "a.jsonl": '{"text": "hello", "label": "x"}\n{"text": "wörld", "label": "y"}\n',
}


@pytest.mark.parametrize("name", list(SAME))
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_kind_of_file_gives_the_same_rows(
    tmp_path: Path, name: str, suffix: str, bom: bytes, end: str
) -> None:
    content = bom + SAME[name].replace("\n", end).encode()
    read = table(tmp_path, name + suffix, content)
    assert read.columns == ("text", "label")
    values = [dict(row) for _, row in read.rows]
    assert values == [{"text": "hello", "label": "x"}, {"text": "wörld", "label": "y"}]


def test_line_numbers_are_those_an_editor_shows_across_quoted_line_ends(tmp_path: Path) -> None:
    content = 'text,label\n"one\ntwo, ""2""\n",x\n\nlast,y\n'
    read = table(tmp_path, "a.csv", content)
    assert [(line, row["text"]) for line, row in read.rows] == [
        (2, 'one\ntwo, "2"\n'),
        (6, "last"),
    ]


def test_quotes_in_a_tsv_are_text(tmp_path: Path) -> None:
    read = table(tmp_path, "a.tsv", 'text\tlabel\n"half a quote\tx\n')
    assert tuple(read.rows) == ((2, {"text": '"half a quote', "label": "x"}),)


def test_a_field_longer_than_the_csv_default_is_read_and_the_limit_put_back(
    tmp_path: Path,
) -> None:
    csv.field_size_limit(131_072)
    long = "x" * 200_000
    assert next(iter(table(tmp_path, "a.csv", f"text,label\n{long},1\n").rows))[1]["text"] == long
    assert csv.field_size_limit() == 131_072


def test_bars_and_semicolons_within_names_separate_nothing(tmp_path: Path) -> None:
    read = table(tmp_path, "a.csv", "text,yes|no,a;b\nx,1,2\n")
    assert read.columns == ("text", "yes|no", "a;b")


def test_a_unicode_line_separator_inside_a_text_is_not_a_line_end(tmp_path: Path) -> None:
    read = table(tmp_path, "a.csv", "text,label\na\u2028b,x\nc,y\n")
    assert [line for line, _ in read.rows] == [2, 3]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", b"text,label\nok,x\ncaf\xe9,y\n", ["a.csv:3", "UTF-8", "0xe9", "position 3"]),
        ("a.csv.gz", b"text,label\n\xff,y\n", ["a.csv.gz:2", "UTF-8", "0xff"]),
        ("a.csv", "text,label\nok,x\na,b,c\n", ["a.csv:3", "3 fields", "text, label"]),
        ("a.csv", "text,label\n\nok\n", ["a.csv:3", "1 fields"]),
        ("a.tsv", "text\tlabel\nno tab\n", ["a.tsv:2", "1 fields"]),
        ("a.csv", 'text,label\nok,x\n"open,y\nz,w\n', ["a.csv:3", "broken row"]),
        ("a.csv", 'text,label\n"a"b,x\n', ["a.csv:2", "broken row"]),
        ("a.csv", "text,label,text\nx,y,z\n", ["a.csv:1", "'text'", "twice"]),
        ("a.csv", "text,label\n", ["a.csv", "no rows"]),
        ("a.csv", "", ["a.csv", "no rows"]),
        ("a.jsonl", "\n\n", ["a.jsonl", "no rows"]),
        ("a.jsonl", '{"text": "x"}\n\n{"text":\n', ["a.jsonl:3", "not JSON"]),
        ("a.jsonl", '[1, 2]\n{"text": "x"}\n', ["a.jsonl:1", "object", "[1, 2]"]),
        ("a.jsonl", "[" * 200_000, ["a.jsonl:1", "not JSON"]),
        ("a.txt", "x", ["a.txt", ".csv", ".jsonl"]),
        ("a.csv", "text;label\na, b;1\n", ["a.csv:1", "separated by semicolons, not commas"]),
        ("a.csv", "a|b|c\n1|2|3\n", ["a.csv:1", "separated by bars (|), not commas"]),
        ("a.csv", "text\tlabel\nx\t1\n", ["a.csv:1", "separated by tabs", "name it .tsv"]),
        ("a.tsv", "text,label\nx,1\n", ["a.tsv:1", "separated by commas", "name it .csv"]),
        ("a.csv", "text,label\ra,1\rb,2\r", ["a.csv:1", "carriage return (CR) alone"]),
        ("a.tsv", "text\tlabel\ra\t1\r", ["a.tsv:1", "carriage return (CR) alone"]),
        ("a.jsonl", '{"a": 1}\r{"a": 2}\r', ["a.jsonl:1", "carriage return (CR) alone"]),
        ("a.csv", "text,label\nx,1\n".encode("utf-16"), ["a.csv:1", "UTF-16"]),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), ["a.json:1", "UTF-16"]),
    ],
)
def test_a_broken_file_is_named_with_the_line(
    tmp_path: Path, name: str, content: bytes | str, parts: list[str]
) -> None:
    message = error_of(tmp_path, name, content)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("name", "content", "kept", "broken"),
    [
        ("a.csv", b"text,label\nok,x\ncaf\xe9,y\nz,w\n", [2, 4], {3: "not UTF-8: byte 0xe9"}),
        (
            "a.csv",
            b'text,label\n"one\ncaf\xe9\nthree",y\nz,w\n',
            [5],
            {3: "not UTF-8: byte 0xe9 at position 3"},
        ),
        ("a.csv", b"text,label\na,b,c\n\nok\nz,w\n", [5], {2: "3 fields", 4: "1 fields"}),
        ("a.tsv", b"text\tlabel\nno tab\nz\tw\n\xff\n", [3], {2: "1 fields", 4: "0xff"}),
        (
            "a.jsonl.gz",
            b'{"text": "\xe9"}\n{"text": "z"}\n{"te\n[1]\n',
            [2],
            {1: "not UTF-8", 3: "not JSON", 4: "expected a JSON object, got [1]"},
        ),
    ],
)
def test_each_broken_row_is_reported_once_and_the_others_are_read(
    tmp_path: Path, name: str, content: bytes, kept: list[int], broken: dict[int, str]
) -> None:
    told: list[tuple[str, int, str]] = []
    path = written(tmp_path, name, content)
    read = read_table(path, lambda *report: told.append(report))
    assert [line for line, _ in read.rows] == kept
    assert tuple(read.rows)[-1][1]["text"] == "z"
    assert [(source, line) for source, line, _ in told] == [(str(path), line) for line in broken]
    for (_, _, reason), part in zip(told, broken.values(), strict=True):
        assert part in reason


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"text,caf\xe9\nx,y\n", "a.csv:1: not UTF-8"),
        (b"text,text\nx,y\n", "twice"),
        (b'text,label\nok,x\n"open,y\nz,w\n', "a.csv:3: broken row"),
        (b"text,label\nx\ny\n", "no rows that can be used"),
    ],
)
def test_a_broken_header_or_quoting_or_no_row_left_stops_in_any_case(
    tmp_path: Path, content: bytes, part: str
) -> None:
    with pytest.raises(UserError, match=part):
        read_table(written(tmp_path, "a.csv", content), lambda *_: None)


def test_a_truncated_or_false_gzip_is_a_user_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"text,label\n" + bytes(range(32, 127)) * 1000 + b",x\n")
    (tmp_path / "a.csv.gz").write_bytes(whole[:-20])
    (tmp_path / "b.csv.gz").write_bytes(b"text,label\nplain,x\n")
    for name in ("a.csv.gz", "b.csv.gz"):
        with pytest.raises(UserError, match=rf"{name}: broken gzip"):
            read_table(tmp_path / name)


def test_a_missing_file_and_a_folder_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.csv does not exist"):
        read_table(tmp_path / "no.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*folder\.csv"):
        read_table(tmp_path / "folder.csv")


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("name", ["a.json", "a.JSON.gz"])
def test_values_are_those_that_json_reads(tmp_path: Path, indent: int | None, name: str) -> None:
    rows = [{"a": "x, ]}", "b": [1, {"c": None}]}, {"a": "naïve\n猫", "b": -3.5e2}]
    table = read_table(written(tmp_path, name.lower(), json.dumps(rows, indent=indent)))
    assert [row for _, row in table.rows] == rows
    assert table.columns == ("a", "b")


def test_each_row_knows_the_line_it_begins_at(tmp_path: Path) -> None:
    text = '\ufeff\n[\n  {"a": 1},\n  {"a":\n    2}, {"a": 3}\n,\n{"a": 4}]\n'
    assert [line for line, _ in read_table(written(tmp_path, "a.json", text)).rows] == [3, 4, 5, 7]


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
        read_table(written(tmp_path, "a.json", content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_table(tmp_path / "none.json")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"[]")[:-9])
    with pytest.raises(UserError, match="broken gzip"):
        read_table(tmp_path / "b.json.gz")


def test_elements_that_are_no_objects_are_left_out_where_the_report_lets_them(
    tmp_path: Path,
) -> None:
    told = []
    table = read_table(
        written(tmp_path, "a.json", '[{"a": 1},\n"x",\n{"a": 2}]'),
        lambda *what: told.append(what[1]),
    )
    assert [row["a"] for _, row in table.rows] == [1, 2]
    assert told == [2]


def test_a_json_list_is_known_by_its_name() -> None:
    assert kind_of(Path("x.json")) == ".json"
    assert kind_of(Path("x.JSON.gz")) == ".json"
    assert kind_of(Path("x.jsonl")) == ".jsonl"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_key_that_an_object_has_twice_is_told_as_a_column_is(tmp_path: Path, name: str) -> None:
    row = '{"text": "x", "label": "a", "label": "b"}'
    told = error_of(tmp_path, name, f"[{row}]" if name == "a.json" else f"{row}\n")
    assert f"{name}:1: " in told
    assert "'label' twice" in told


def test_the_header_of_a_file_that_was_added_to_another_is_no_row(tmp_path: Path) -> None:
    whole = "text,label\nx,a\n"
    assert "a.csv:3: the header again (text, label)" in error_of(tmp_path, "a.csv", whole * 2)
