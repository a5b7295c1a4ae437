"""Instruction sets of your own: columns, inputs, kinds of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.tasks.generation.instructions import TEMPLATE, load_instructions


def records(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Add one to the number, case {n}.",
            "input": str(n) if n % 2 else "",
            "output": str(n + 1),
        }
        for n in range(start, start + count)
    ]


def write(path: Path, rows: list[Any]) -> Path:
    lines = [json.dumps(row) for row in rows]
    path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines))
    return path


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json"])
def test_instructions_with_and_without_input_become_sources(tmp_path: Path, name: str) -> None:
    task = load_instructions(write(tmp_path / name, records(40)))
    assert task.name == "mine"
    assert task.metrics == ("rougeL", "exact")
    assert task.template == TEMPLATE
    assert (len(task.train), len(task.selection), len(task.test)) == (32, 4, 4)
    found = {row["target"]: row for split in (task.train, task.test) for row in split}
    for target, row in found.items():
        n = int(target) - 1
        given = f"\n\n### Input:\n{n}" if n % 2 else ""
        assert row["source"] == f"Add one to the number, case {n}.{given}"
        assert row["references"] == [target]


def test_a_csv_with_other_names_is_read_by_them(tmp_path: Path) -> None:
    path = tmp_path / "chat.csv"
    path.write_text("prompt,context,reply\n" + "".join(f"p{n},  ,r{n}\n" for n in range(20)))
    with pytest.raises(UserError, match=r"no column 'instruction'.*prompt, context, reply"):
        load_instructions(path)
    task = load_instructions(path, text=["prompt", "context"], label="reply", metrics=["exact"])
    assert all(row["source"].startswith("p") and "#" not in row["source"] for row in task.train)
    assert task.metrics == ("exact",)


def test_splits_in_files_are_taken_as_they_are(tmp_path: Path) -> None:
    task = load_instructions(
        write(tmp_path / "a.json", records(10)),
        dev=write(tmp_path / "b.jsonl", records(3, 20)),
        test=write(tmp_path / "c.json", records(2, 30)),
    )
    assert (len(task.train), len(task.selection), len(task.test)) == (10, 3, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "", "output": "x"}, "column 'instruction': expected text, got ''"),
        ({"instruction": "x"}, "column 'output': expected text, got None"),
        ({"instruction": "x", "output": "x", "input": ["y"]}, "column 'input'"),
        ({"instruction": "x", "output": {"y": 1}}, "column 'output'"),
    ],
)
def test_broken_rows_stop_with_file_and_line_or_are_counted(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "mine.jsonl", [*records(2), row, *records(20, 2)])
    with pytest.raises(UserError) as caught:
        load_instructions(path)
    assert f"{path}:3: {message}" in str(caught.value)
    task = load_instructions(path, on_broken="skip")
    assert "1 broken row left out" in task.notes[0]


def test_answers_that_are_numbers_are_text(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}", "output": n / 2} for n in range(20)]
    task = load_instructions(write(tmp_path / "mine.jsonl", rows), metrics=["number"])
    assert set(task.train["target"]) <= {str(n / 2) for n in range(20)}


@pytest.mark.parametrize("text", [[], ["a", "b", "c"]])
def test_more_than_two_columns_are_refused(tmp_path: Path, text: list[str]) -> None:
    with pytest.raises(UserError, match="one column of instructions"):
        load_instructions(write(tmp_path / "mine.jsonl", records(20)), text=text)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        load_instructions(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("metric", "answer", "why"),
    [
        ("number", "yes", "it has no number"),
        ("number", ".75", "its rule reads 75 there, not 0.75"),
        ("choice", "c", "it has no capital from A to E"),
        ("choice", "Cats", "'C' in a word"),
        ("rougeL", "\u732b", "ASCII"),
    ],
)
def test_an_answer_that_cannot_score_1_is_refused_with_its_line_or_left_out(
    tmp_path: Path, metric: str, answer: str, why: str
) -> None:
    broken = {"instruction": "Say it.", "output": answer}
    fine = [{"instruction": f"Pick {n}.", "output": f"B {n}"} for n in range(20)]
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for first, second in (([*fine, broken], fine), (fine, [fine[0], broken])):
        write(train, first)
        write(test, second)
        with pytest.raises(UserError) as caught:
            load_instructions(train, test=test, metrics=[metric])
        line = f"{train}:21: " if broken in first else f"{test}:2: "
        assert str(caught.value).startswith(f"{line}the right answer {answer!r} does not score 1")
        assert why in str(caught.value)
        task = load_instructions(train, test=test, metrics=[metric], on_broken="skip")
        assert "1 broken row left out" in task.notes[0]
    assert load_instructions(train, test=test, metrics=["exact"]).metrics == ("exact",)
