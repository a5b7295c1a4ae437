"""What labels mean is decided by all of them, and by no hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.tasks import TextTask, compute, load_text_task

_ROWS = 40


def table(path: Path, labels: list[Any]) -> Path:
    rows = [(f"text {n}", label) for n, label in enumerate(labels)]
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    else:
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        path.write_text("".join(lines))
    return path


def labels_of(task: TextTask) -> list[str]:
    parts = (task.train, task.selection, task.test)
    return sorted((task.labels or ())[index] for part in parts for index in part["label"])


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_text_task(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("odd", ["NaN", "nan", "N/A", "NULL", "None", "inf", "unknown", "3;5"])
def test_one_word_among_fractions_leaves_it_a_regression(tmp_path: Path, odd: str) -> None:
    numbers: list[Any] = [n / 4 for n in range(_ROWS)]
    path = table(tmp_path / "grades.csv", [*numbers[:7], odd, *numbers[7:]])
    assert "grades.csv:9: column 'label'" in refused(path)
    task = load_text_task(path, on_broken="skip")
    assert task.labels is None
    assert task.notes[0].startswith("1 broken row left out; the first is ")
    named = load_text_task(table(tmp_path / "few.csv", ["1.5", "2", "x"] * 9), regression=False)
    assert named.labels == ("1.5", "2", "x")


def test_a_json_nan_is_null_among_numbers_classes_and_texts(tmp_path: Path) -> None:
    numbers: list[Any] = [n / 4 for n in range(_ROWS)]
    nan = float("nan")
    for labels in ([*numbers, nan], [*"ab" * 20, nan], [*[0, 1] * 20, nan]):
        path = table(tmp_path / "x.jsonl", labels)
        assert "x.jsonl:41: column 'label': expected a label, got nan" in refused(path)
        assert load_text_task(path, on_broken="skip").notes[0].startswith("1 broken row")
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": NaN, "label": 1}\n{"text": "a", "label": 0}\n')
    assert "text.jsonl:1: column 'text': expected text, got nan" in refused(path)


@pytest.mark.slow
def test_the_order_of_classes_follows_no_hash_seed(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", ["nan", "2", "10", "b", "a"] * 8)
    code = "import sys; from ailora.lab.tasks import load_task; "
    code += "print(load_task(sys.argv[1]).labels)"
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "1234"
    }
    assert said == {"('2', '10', 'a', 'b', 'nan')\n"}


def test_nan_has_one_place_among_classes(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", ["nan", "2", "10", "b", "a"] * 8)
    assert load_text_task(path).labels == ("2", "10", "a", "b", "nan")


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        ([1, 1.0, "1", True, 0, "0.0", False, 0], ("0", "1")),
        (["2", "2.00", "+2", "2e0", "3"], ("2", "3")),
        ([True, False, "true"], ("false", "true")),
        (["12345678901234567890", "12345678901234567891"], None),
    ],
)
def test_labels_that_are_equal_as_numbers_are_one_class(
    tmp_path: Path, given: list[Any], classes: tuple[str, ...] | None
) -> None:
    task = load_text_task(table(tmp_path / "x.jsonl", given * 8))
    assert task.labels == (classes or tuple(given))
    merged = [note for note in task.notes if "equal as numbers, so one class" in note]
    assert len(merged) == (classes is not None and len(set(map(str, given))) > 3)


def test_a_test_label_equal_as_a_number_is_that_class(tmp_path: Path) -> None:
    path = table(tmp_path / "x.jsonl", [0, 1] * 20)
    task = load_text_task(path, test=table(tmp_path / "test.csv", ["1.0", "0", "true"]))
    assert task.test["label"][:] == [1, 0, 1]


def test_classes_that_differ_in_case_or_spaces_are_noted(tmp_path: Path) -> None:
    task = load_text_task(table(tmp_path / "x.csv", ["Very Good", "very  good", "bad"] * 10))
    assert len(task.labels or ()) == 3
    note = "classes that differ in case or spaces alone: 'Very Good' and 'very  good'"
    assert task.notes[0].startswith(note)
    assert "all classes: Very Good, bad, very  good" in task.notes[0]


def test_words_for_missing_values_are_noted_with_their_line(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", [*"ab" * 20, "None", "N/A", "None"])
    path.write_text(path.read_text().replace("text 3,", "nan,"))
    notes = load_text_task(path).notes
    assert f"1 row with 'nan' as 'text', read as a word; the first is {path}:5" in notes
    assert (
        f"3 rows with 'None' or 'N/A' as 'label', read as a word; the first is {path}:42" in notes
    )


@pytest.mark.parametrize("labels", [["0", "1"], ["bad", "fine"], ["0.0", "fine"], [0, True]])
def test_classes_have_the_order_that_was_given(tmp_path: Path, labels: list[Any]) -> None:
    path = table(tmp_path / "x.jsonl", labels * 20)
    task = load_text_task(path, labels=["bad", "fine"])
    assert task.labels == ("bad", "fine")
    assert labels_of(task) == ["bad"] * 20 + ["fine"] * 20


def test_an_order_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", ["low", "high"] * 20)
    assert "label 'high' is none of 0 (low), 1 (mid)" in refused(path, labels=["low", "mid"])
    for order in (["low"], ["low", "low"]):
        assert "two or more classes, each once" in refused(path, labels=order)
    assert "no regression" in refused(path, labels=["low", "high"], regression=True)
    task = load_text_task(path, labels=["low", "mid", "high"])
    assert "no training row is of class 'mid'" in task.notes


def test_several_labels_in_a_row_are_refused_as_such(tmp_path: Path) -> None:
    path = table(tmp_path / "x.jsonl", [["a", "b"], ["a"]] * 10)
    assert "x.jsonl:1: column 'label': several labels in one row, ['a', 'b']" in refused(path)


@pytest.mark.parametrize("texts", [["['a', 'b']", "['a']"], ["[1, 0]", "[0]"], ["[0 1]", "[1 1]"]])
def test_a_list_of_labels_that_was_written_as_text_is_refused(
    tmp_path: Path, texts: list[str]
) -> None:
    path = table(tmp_path / "x.jsonl", texts * 10)
    told = f"x.jsonl:1: column 'label': a list of labels in one row, {texts[0]!r}"
    assert told in refused(path)
    assert told in refused(path, on_broken="skip")
    words = load_text_task(table(tmp_path / "y.csv", ["[OTHER]", "[SEP]"] * 10))
    assert words.labels == ("[OTHER]", "[SEP]")


@pytest.mark.parametrize("joined", ["a|b", "a, b", "b;a"])
def test_labels_that_join_others_are_refused_unless_they_are_said_to_be_classes(
    tmp_path: Path, joined: str
) -> None:
    path = table(tmp_path / "x.jsonl", ["a", "b", joined] * 10)
    assert f"{joined!r} looks like several labels in one row" in refused(path)
    assert load_text_task(path, labels=["a", "b", joined]).labels == ("a", "b", joined)
    alone = table(tmp_path / "y.jsonl", ["Paris, France", "Rome, Italy"] * 10)
    assert load_text_task(alone).labels == ("Paris, France", "Rome, Italy")


@pytest.mark.parametrize(
    "texts", [["3,5", "4", "4,5"], ["1,200.5", "900.5"], ["10%", "20%"], ["$5", "$7.50"]]
)
def test_numbers_in_a_spelling_that_is_not_read_are_not_taken_for_classes(
    tmp_path: Path, texts: list[str]
) -> None:
    path = table(tmp_path / "x.jsonl", texts * 10)
    assert "may be a number or a class; write numbers as 1234.5" in refused(path)
    assert set(load_text_task(path, regression=False).labels or ()) == set(texts)
    assert "expected a number for regression" in refused(path, regression=True)


def test_a_class_with_an_underscore_is_no_number(tmp_path: Path) -> None:
    task = load_text_task(table(tmp_path / "x.csv", ["1_5", "15", "2_5"] * 10))
    assert task.labels == ("15", "1_5", "2_5")


@pytest.mark.parametrize(
    ("one", "other"),
    [("pos", "pos\u200b"), ("pos", "\u200fpos"), ("caf\u00e9", "cafe\u0301"), ("a b", "a\u00a0b")],
)
def test_classes_that_look_alike_are_noted_so_that_they_can_be_told_apart(
    tmp_path: Path, one: str, other: str
) -> None:
    task = load_text_task(table(tmp_path / "x.jsonl", [one, other, "neg"] * 10))
    (note,) = (note for note in task.notes if "differ in case or spaces" in note)
    assert ascii(other) in note.partition("(all")[0]


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff", "\u200e\u00a0"])
def test_a_text_or_label_of_which_nothing_is_to_be_seen_is_missing(
    tmp_path: Path, blank: str
) -> None:
    path = table(tmp_path / "x.jsonl", ["a", "b", blank, *["a", "b"] * 10])
    assert "x.jsonl:3: column 'label': expected a label" in refused(path)
    rows = [{"text": f"t{n}" if n else blank, "label": "ab"[n % 2]} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "x.jsonl:1: column 'text': expected text" in refused(path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.csv", "text,label\n" + 't, "a"\nu, "b"\n' * 10, "20 rows with quotes around 'label'"),
        (
            "x.tsv",
            "text\tlabel\n" + '"say ""hi"""\ta\nu\tb\n' * 10,
            "10 rows with quotes around 'text'",
        ),
    ],
)
def test_quotes_that_stay_around_a_value_are_noted(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    assert any(told in note for note in load_text_task(tmp_path / name).notes)


def test_f1_is_of_the_class_that_was_named_and_that_is_said(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", ["fraud", "ok"] * 20)
    task = load_text_task(path, positive="fraud")
    assert (task.labels, task.positive, task.positive_index) == (("fraud", "ok"), "fraud", 0)
    assert task.fingerprint == load_text_task(path).fingerprint
    assert any(line.endswith("f1 is of 'fraud'") for line in task.said())
    assert load_text_task(path).positive == "ok"
    assert "did you mean 'fraud'" in refused(path, positive="frad")
    three = table(tmp_path / "y.csv", ["a", "b", "c"] * 10)
    assert "only one of two classes can be positive" in refused(three, positive="a")
    logits, labels = [[1, 0], [1, 0], [0, 1], [1, 0]], [0, 1, 1, 1]
    assert compute(["f1"], logits, labels)["f1"] == pytest.approx(0.5)
    assert compute(["f1"], logits, labels, positive=0)["f1"] == pytest.approx(0.5)
    assert compute(["f1"], [[1, 0], [0, 1]], [0, 0], positive=0)["f1"] == pytest.approx(2 / 3)


def test_two_texts_have_any_names(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("claim,proof,label\n" + "".join(f"c{n},p{n},{n % 2}\n" for n in range(20)))
    pair = load_text_task(path, text=["claim"], text_pair="proof")
    assert pair.fingerprint == load_text_task(path, text=["claim", "proof"]).fingerprint
    assert "goes with one text column" in refused(path, text_pair="proof")
    assert "goes with one text column" in refused(path, text=["claim", "proof"], text_pair="proof")
