"""What was read is said in a few lines: columns, rows, classes, leaks, and how splits were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ailora.lab.tasks import load_task
from ailora.lab.tasks.statement import Statement


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def notes(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {"text": f"Note {n}", "label": ["b", "a"][n % 2], **more}
        for n in range(start, start + count)
    ]


def test_a_classification_says_columns_rows_and_classes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "n.jsonl", notes(40, id=1, sentiment="x"))
    lines = load_task(path).said(8)
    assert lines == (
        f"{path}: classification on texts (text 'text', label 'label'; left out: id, sentiment)",
        "rows: 32 to train on, 4 to select by, 4 to test on",
        "classes and their training rows: a 16, b 16; f1 is of 'b'",
        "test split: 4 rows held out of train (seed 0)",
        "selection split: 4 rows held out of train (seed 0)",
    )
    assert "f1" not in " ".join(load_task(path, metrics=["accuracy"]).said())


def test_leaks_by_case_and_spaces_are_counted_and_a_dev_file_that_becomes_the_test(
    tmp_path: Path,
) -> None:
    dev = [{"text": " note  7", "label": "a"}, {"text": "Note 8", "label": "b"}, *notes(2, 90)]
    path = jsonl(tmp_path / "n.jsonl", notes(20))
    task = load_task(path, dev=jsonl(tmp_path / "dev.jsonl", dev))
    shared = [note for note in task.notes if "test rows have a text" in note]
    assert sum(int(note.split()[0]) for note in shared) == 2
    assert any(note.endswith("(case and spaces aside)") for note in shared)
    said = task.said(8)
    assert "no test split given: the 4 dev rows are the test split" in said
    assert set(shared) <= set(said)


def test_questions_and_instructions_say_their_columns_too(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{n}", "context": f"The  text {n}", "answer": f"{n}", "by": "me"}
        for n in range(20)
    ]
    again = {**rows[3], "context": "the text 3", "id": "x"}
    task = load_task(jsonl(tmp_path / "q.jsonl", rows), test=jsonl(tmp_path / "t.jsonl", [again]))
    assert "(question 'question', text 'context', answers 'answer'; left out: by)" in task.said()[0]
    assert any(note.startswith("1 of 1 test questions have a context of") for note in task.notes)
    asked = [{"instruction": f"i{n}", "output": f"o{n}", "topic": "t"} for n in range(20)]
    said = load_task(jsonl(tmp_path / "i.jsonl", asked), metrics=["exact"]).said()
    assert "(instruction 'instruction', answer 'output'; left out: topic)" in said[0]


def test_a_field_over_many_lines_is_said_with_its_line(tmp_path: Path) -> None:
    lines = [f"row {n},{'ab'[n % 2]}" for n in range(30)]
    lines[5] = '"' + lines[5]
    lines[9] = 'row 9",a'
    path = tmp_path / "n.csv"
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    (note,) = (note for note in load_task(path).notes if "spans several lines" in note)
    assert note.startswith("1 field of n.csv spans several lines: 5 lines in the row at ")
    assert f"{path}:7;" in note
    path.write_text("text,label\n" + "\n".join(f'"a\n{n}",{n % 2}' for n in range(30)) + "\n")
    assert any(note.startswith("30 fields of n.csv span") for note in load_task(path).notes)


def test_a_long_statement_is_cut_and_says_so() -> None:
    rows = {"train": 1200, "selection": 1, "test": 1}
    remarks = tuple(f"remark {n}" for n in range(20))
    long = Statement(kind="k", source="s", used={"text": "t"}, rows=rows, remarks=remarks)
    assert len(long.lines()) == 8
    assert long.lines()[1] == "rows: 1,200 to train on, 1 to select by, 1 to test on"
    assert long.lines()[-1] == "and 15 more lines, in result.json"
    assert len(long.lines(None)) == 22
    many = Statement(
        kind="k", source="s", used={}, rows=rows, classes=dict.fromkeys("abcdefghij", 2)
    )
    assert many.lines()[1].endswith("h 2 and 2 more")


def test_the_embedded_task_needs_two_lines() -> None:
    said = load_task("movies", limit=64, eval_limit=40).said(8)
    assert said == (
        "movies: classification on texts, 64 to train on, 40 to select by, 40 to test on",
        "classes and their training rows: negative 32, positive 32; f1 is of 'positive'",
    )
