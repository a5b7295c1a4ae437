"""What a file is, is told by all its rows: the first may lack a column, or be broken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.tasks import GenerationTask, QATask, TextTask, load_task
from ailora.lab.tasks.tables.read import read_table
from ailora.lab.tasks.tables.survey import survey

Rows = list[Mapping[str, Any]]
TOWNS: Rows = [
    {"instruction": "Name the town.", "input": f"plate {n}", "output": f"town {n}"}
    for n in range(30)
]
NOTES: Rows = [{"text": f"note {n}", "label": "ab"[n % 2]} for n in range(30)]


def written(path: Path, rows: Rows) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = f"[{', '.join(lines)}]" if path.suffix == ".json" else "\n".join(lines)
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("name", ["towns.jsonl", "towns.json"])
def test_an_input_that_the_first_rows_lack_is_read_of_the_others(tmp_path: Path, name: str) -> None:
    short = {key: TOWNS[0][key] for key in ("instruction", "output")}
    task = load_task(written(tmp_path / name, [short, short, *TOWNS[2:]]))
    assert isinstance(task, GenerationTask)
    texts = [*task.train["source"], *task.selection["source"], *task.test["source"]]
    assert sum("### Input:\nplate" in text for text in texts) == 28


def test_an_input_that_only_the_test_file_has_is_read_there(tmp_path: Path) -> None:
    plain = [{"instruction": f"Say {n}.", "output": f"said {n}"} for n in range(20)]
    test = written(tmp_path / "test.jsonl", TOWNS[:3])
    task = load_task(written(tmp_path / "plain.jsonl", plain), test=test)
    assert all("### Input:" in text for text in task.test["source"])


def test_the_columns_of_a_table_are_those_of_all_rows(tmp_path: Path) -> None:
    rows: Rows = [{"a": 1}, {"b": 2, "a": 1}, {"c": 3}]
    for name in ("x.jsonl", "x.json"):
        assert read_table(written(tmp_path / name, rows)).columns == ("a", "b", "c")


def test_a_second_text_that_the_first_row_lacks_is_missed_there(tmp_path: Path) -> None:
    pairs: Rows = [{**row, "text_pair": "to it"} for row in NOTES]
    path = written(tmp_path / "pairs.jsonl", [NOTES[0], *pairs])
    with pytest.raises(UserError, match=r"pairs\.jsonl:1: column 'text_pair': expected text"):
        load_task(path)
    task = load_task(path, on_broken="skip")
    assert isinstance(task, TextTask)
    assert task.has_pair


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x1c"])
def test_a_separator_within_the_first_row_ends_no_line(tmp_path: Path, mark: str) -> None:
    first = {**TOWNS[0], "input": f"plate{mark}0"}
    rows = [first, *TOWNS[1:]]
    if mark == "\x1c":  # JSON writes it escaped; csv holds it as it is
        path = tmp_path / "towns.csv"
        lines = [f"{row['instruction']},{row['input']},{row['output']}" for row in rows]
        path.write_text("\n".join([f"instruction,in{mark}fo,output", *lines]))
    else:
        path = written(tmp_path / "towns.jsonl", rows)
    assert isinstance(load_task(path), GenerationTask)


@pytest.mark.parametrize(
    "first", ['{"instruction": "cut off', '{"instruction": "\x0b"}', "[]", '{"instruction": "?"}']
)
def test_a_broken_first_line_is_skipped_with_a_count_or_named(tmp_path: Path, first: str) -> None:
    path = written(tmp_path / "towns.jsonl", TOWNS)
    path.write_text(f"{first}\n{path.read_text()}")
    task = load_task(path, on_broken="skip")
    assert isinstance(task, GenerationTask)
    assert task.notes[0].startswith(f"1 broken row left out; the first is {path}:1: ")
    with pytest.raises(UserError, match=r"towns\.jsonl:1: "):
        load_task(path)


def test_a_first_row_without_its_label_is_skipped(tmp_path: Path) -> None:
    path = written(tmp_path / "notes.jsonl", [{"text": "unlabelled"}, *NOTES])
    task = load_task(path, on_broken="skip")
    assert sum(part.num_rows for part in (task.train, task.selection, task.test)) == 30
    assert "notes.jsonl:1: column 'label'" in task.notes[0]


def test_a_stray_row_of_another_kind_does_not_decide(tmp_path: Path) -> None:
    path = written(tmp_path / "notes.jsonl", [TOWNS[0], *NOTES])
    assert isinstance(load_task(path, on_broken="skip"), TextTask)
    path = written(tmp_path / "towns.jsonl", [NOTES[0], *TOWNS])
    assert isinstance(load_task(path, on_broken="skip"), GenerationTask)


def test_questions_are_known_where_the_first_has_no_answers(tmp_path: Path) -> None:
    rows: Rows = [
        {"question": f"who {n}?", "context": f"it was {n}", "answer": f"{n}"} for n in range(20)
    ]
    first = {key: rows[0][key] for key in ("question", "context")}
    path = written(tmp_path / "who.jsonl", [first, *rows[1:]])
    assert isinstance(load_task(path, on_broken="skip"), QATask)
    listed = load_task(written(tmp_path / "who.json", rows))
    assert isinstance(listed, QATask)


@pytest.mark.parametrize("answers", [(True, False), ("true", "False")])
@pytest.mark.parametrize("text", ["passage", "context"])
def test_a_question_answered_by_true_or_false_is_a_class(
    tmp_path: Path, answers: tuple[Any, Any], text: str
) -> None:
    rows: Rows = [
        {"question": f"is it {n}?", text: f"it is {n // 2}", "answer": answers[n % 2]}
        for n in range(20)
    ]
    task = load_task(written(tmp_path / "asked.jsonl", rows))
    assert isinstance(task, TextTask)
    assert task.has_pair
    assert len(task.labels or ()) == 2
    assert survey([tmp_path / "asked.jsonl"]).flags


def test_what_was_typed_counts_where_it_is_the_default_too(tmp_path: Path) -> None:
    rows: Rows = [{**row, "label": "xy"[n % 2]} for n, row in enumerate(TOWNS)]
    path = written(tmp_path / "towns.jsonl", rows)
    assert isinstance(load_task(path), GenerationTask)
    assert isinstance(load_task(path, label="output"), GenerationTask)
    task = load_task(path, text=["instruction"], label="label")
    assert isinstance(task, TextTask)
    assert task.labels == ("x", "y")
    asked: Rows = [
        {"question": f"q {n}", "context": f"c {n}", "answer": f"c {n}", "label": n % 3}
        for n in range(30)
    ]
    path = written(tmp_path / "asked.jsonl", asked)
    assert isinstance(load_task(path), QATask)
    assert isinstance(load_task(path, label="label"), TextTask)
