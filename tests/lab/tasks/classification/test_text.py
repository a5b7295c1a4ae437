"""Your own files: columns, labels, splits, and what is refused."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.tasks import TextTask, load_text_task

Rows = list[Mapping[str, Any]]


def jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def sentences(count: int, start: int = 0, labels: tuple[Any, ...] = ("no", "yes")) -> Rows:
    return [
        {"text": f"s{n}", "label": labels[n % len(labels)]} for n in range(start, start + count)
    ]


def message_of(*args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_text_task(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def texts(task: TextTask) -> tuple[set[str], set[str], set[str]]:
    return tuple(set(split["text"]) for split in (task.train, task.selection, task.test))  # type: ignore[return-value]


def test_train_alone_is_split_by_tenths_without_overlap_or_loss(tmp_path: Path) -> None:
    task = load_text_task(jsonl(tmp_path / "mine.jsonl", sentences(200)))
    train, selection, test = texts(task)
    assert (len(train), len(selection), len(test)) == (160, 20, 20)
    assert len(train | selection | test) == 200
    assert sum(task.test["label"][:]) == 10
    assert task.name == "mine"
    assert task.labels == ("no", "yes")
    assert task.metrics == ("accuracy", "f1", "mcc")
    assert (task.is_regression, task.num_outputs, task.has_pair) == (False, 2, False)


def test_a_folder_with_three_files_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "reviews v1"
    jsonl(folder / "train.jsonl.gz", sentences(20))
    jsonl(folder / "validation.jsonl", sentences(4, 100))
    (folder / "test.csv").write_text("text,label\na,no\nb,yes\n")
    (folder / "train_full.jsonl").write_text("not read")
    task = load_text_task(folder)
    assert [len(part) for part in texts(task)] == [20, 4, 2]
    assert task.notes == ()
    assert task.name == "reviews-v1"


def test_with_train_and_dev_the_dev_rows_are_reported_and_selection_comes_from_train(
    tmp_path: Path,
) -> None:
    jsonl(tmp_path / "train.jsonl", sentences(50))
    jsonl(tmp_path / "dev.jsonl", sentences(6, 100))
    task = load_text_task(tmp_path)
    train, selection, test = texts(task)
    assert test == {f"s{n}" for n in range(100, 106)}
    assert len(selection) == 5
    assert train | selection == {f"s{n}" for n in range(50)}
    assert any("dev rows are the test split" in note for note in task.notes)


def test_limits_cap_rows_after_the_split_so_that_evaluation_stays_the_same(
    tmp_path: Path,
) -> None:
    path = jsonl(tmp_path / "a.jsonl", sentences(200))
    whole, some = load_text_task(path), load_text_task(path, limit=40)
    assert texts(some)[1:] == texts(whole)[1:]
    assert texts(some)[0] < texts(whole)[0]
    assert some.train.num_rows == 40
    assert sum(some.train["label"][:]) == 20
    few = load_text_task(path, eval_limit=6)
    assert (few.train.num_rows, few.selection.num_rows, few.test.num_rows) == (160, 6, 6)


def test_the_fingerprint_follows_content_and_split_and_not_the_place(tmp_path: Path) -> None:
    rows = sentences(60)
    first = load_text_task(jsonl(tmp_path / "a" / "x.jsonl", rows))
    moved = load_text_task(jsonl(tmp_path / "b" / "y.jsonl.gz", rows))
    assert first.fingerprint == moved.fingerprint
    reseeded = load_text_task(tmp_path / "a" / "x.jsonl", split_seed=1)
    limited = load_text_task(tmp_path / "a" / "x.jsonl", limit=47)
    altered = load_text_task(
        jsonl(tmp_path / "c" / "x.jsonl", [{**rows[0], "text": "s0 "}, *rows[1:]])
    )
    prints = {task.fingerprint for task in (first, reseeded, limited, altered)}
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("sentence", "label"), ["sentence"]),
        (("id", "premise", "hypothesis", "label"), ["premise", "hypothesis"]),
        (("text", "sentence1", "sentence2", "label"), ["sentence1", "sentence2"]),
        (("question", "sentence", "label"), ["question", "sentence"]),
    ],
)
def test_common_text_columns_are_found(
    tmp_path: Path, columns: tuple[str, ...], found: list[str]
) -> None:
    rows = [
        {name: n % 2 if name == "label" else f"{name}{n}" for name in columns} for n in range(20)
    ]
    task = load_text_task(jsonl(tmp_path / "a.jsonl", rows))
    assert task.train["text"][0].startswith(found[0])
    assert task.has_pair == (len(found) == 2)
    if task.has_pair:
        assert task.train["text_pair"][0].startswith(found[1])


def test_named_columns_go_before_known_ones(tmp_path: Path) -> None:
    rows = [{"text": "wrong", "body": f"b{n}", "stars": n % 2} for n in range(20)]
    task = load_text_task(jsonl(tmp_path / "a.jsonl", rows), text=["body"], label="stars")
    assert task.train["text"][0].startswith("b")


def test_number_labels_are_ordered_as_numbers_and_equal_across_file_kinds(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", sentences(60, labels=(10, 9, 2)))
    (tmp_path / "test.csv").write_text("text,label\nx,9\ny,10\n")
    task = load_text_task(path, test=tmp_path / "test.csv")
    assert task.labels == ("2", "9", "10")
    assert task.test["label"][:] == [1, 2]
    assert str(task.train.features["label"].dtype) == "int64"


def test_fractions_make_a_regression_and_whole_numbers_do_when_asked(tmp_path: Path) -> None:
    scores = jsonl(tmp_path / "a.jsonl", sentences(40, labels=(0.0, 2.5, 5)))
    task = load_text_task(scores)
    assert (task.labels, task.metrics) == (None, ("pearson", "spearman"))
    assert (task.is_regression, task.num_outputs) == (True, 1)
    assert set(task.train["label"]) == {0.0, 2.5, 5.0}
    assert str(task.train.features["label"].dtype) == "float64"
    stars = jsonl(tmp_path / "b.jsonl", sentences(40, labels=(1, 2, 3)))
    assert load_text_task(stars).labels == ("1", "2", "3")
    assert load_text_task(stars, regression=True).labels is None


def test_texts_shared_between_splits_are_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jsonl(tmp_path / "train.jsonl", sentences(20))
    jsonl(tmp_path / "dev.jsonl", sentences(4, 100))
    jsonl(tmp_path / "test.jsonl", sentences(3, 18))
    with caplog.at_level(logging.INFO, logger="ailora.lab.tasks"):
        task = load_text_task(tmp_path)
    assert task.notes == ("2 of 3 test rows have a text that train has too",)
    assert task.notes[0] in caplog.text


def test_a_class_without_a_row_to_score_by_is_said(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", sentences(20))
    jsonl(tmp_path / "dev.jsonl", [row | {"label": "yes"} for row in sentences(4, 100)])
    jsonl(tmp_path / "test.jsonl", sentences(4, 200))
    task = load_text_task(tmp_path)
    line = "no selection row is of the class no: its f1 there is 0 or left out"
    assert task.notes == (line,)
    assert task.statement is not None and line in task.statement.lines()


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"text": "x", "label": "maybe"}, ["'maybe'", "not in train", "no, yes"]),
        ({"text": "x", "label": None}, ["'label'", "None"]),
        ({"text": "x"}, ["'label'", "None"]),
        ({"text": "x", "label": " "}, ["'label'", "' '"]),
        ({"text": "x", "label": ["yes"]}, ["'label'", "['yes']"]),
        ({"text": " ", "label": "yes"}, ["'text'", "' '"]),
        ({"text": 5, "label": "yes"}, ["'text'", "5"]),
        ({"text": "\ud800", "label": "yes"}, ["'text'", "half a surrogate pair"]),
    ],
)
def test_a_bad_row_of_dev_is_named_by_file_and_line(
    tmp_path: Path, row: Mapping[str, Any], parts: list[str]
) -> None:
    train = jsonl(tmp_path / "train.jsonl", sentences(20))
    dev = jsonl(tmp_path / "dev.jsonl", [*sentences(2), row])
    message = message_of(train, dev=dev)
    for part in ("dev.jsonl:3", *parts):
        assert part in message


@pytest.mark.parametrize("bad", ["nan", "inf", "high"])
def test_a_regression_label_that_is_no_finite_number_is_refused(tmp_path: Path, bad: str) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\na,1.5\nb,2\nc,{bad}\n")
    message = message_of(tmp_path / "a.csv", regression=True)
    assert "a.csv:4" in message
    assert repr(bad) in message


def test_a_wrong_column_is_answered_with_those_present(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", sentences(20))
    assert "'body'" in message_of(path, text=["body"])
    assert "columns present: text, label" in message_of(path, label="stars")
    assert "one or two" in message_of(path, text=["a", "b", "c"])
    other = jsonl(tmp_path / "dev.jsonl", [{"text": "x", "y": 1}])
    assert "dev.jsonl: no column 'label'" in message_of(path, dev=other)
    unknown = jsonl(tmp_path / "b.jsonl", [{"body": "x", "label": 1}])
    assert "columns present: body, label" in message_of(unknown)


def test_labels_that_cannot_be_classes_are_refused(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", sentences(20, labels=("same",)))
    assert "one class only ('same')" in message_of(one)
    many = jsonl(tmp_path / "many.jsonl", sentences(60, labels=tuple(f"l{n}" for n in range(60))))
    assert "60 different values in 60 rows" in message_of(many)


def test_missing_ambiguous_and_tiny_data_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in message_of(tmp_path / "no.csv")
    (tmp_path / "empty").mkdir()
    assert "no train file" in message_of(tmp_path / "empty")
    for name in ("train.jsonl", "train.jsonl.gz"):
        jsonl(tmp_path / "two" / name, sentences(20))
    assert "train.jsonl and train.jsonl.gz" in message_of(tmp_path / "two")
    assert "empty split" in message_of(jsonl(tmp_path / "a.jsonl", sentences(2)))


def test_a_metric_of_the_other_kind_or_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", sentences(20))
    assert "'pearson'" in message_of(path, metrics=["pearson"])
    assert "limit of 0" in message_of(path, limit=0)
    assert load_text_task(path, metrics=["mcc", "accuracy"]).metrics == ("mcc", "accuracy")


BAD_ROWS: Rows = [
    {"text": "x", "label": "maybe"},
    {"text": "x", "label": None},
    {"text": " ", "label": "yes"},
    {"text": "\ud800", "label": "yes"},
]


def test_broken_rows_are_left_out_with_a_count_where_asked(tmp_path: Path) -> None:
    train, dev = sentences(40), sentences(6, 100)
    whole = load_text_task(
        jsonl(tmp_path / "a" / "train.jsonl", train), dev=jsonl(tmp_path / "a" / "dev.jsonl", dev)
    )
    spoilt = [dev[0], *BAD_ROWS, *dev[1:]]
    path = jsonl(tmp_path / "b" / "train.jsonl", [*train, BAD_ROWS[1]])
    other = jsonl(tmp_path / "b" / "dev.jsonl", spoilt)
    task = load_text_task(path, dev=other, on_broken="skip")
    assert task.fingerprint == whole.fingerprint
    assert task.notes[:2] == (
        f"1 broken row left out; the first is {path}:41: column 'label': expected a label, got "
        "None; fill it in or drop the row",
        f"4 broken rows left out; the first is {other}:2: column 'label': label 'maybe' is not in "
        "train (there: no, yes)",
    )
    assert task.notes[2:] == whole.notes


def test_a_local_broken_row_stops_unless_asked_otherwise_and_says_how(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*sentences(20), BAD_ROWS[1]])
    for rule in ({}, {"on_broken": "stop"}):
        assert "a.jsonl:21: column 'label'" in message_of(path, **rule)
        assert 'on_broken="skip"' in message_of(path, **rule)
    assert "on_broken='drop': must be stop or skip" in message_of(path, on_broken="drop")


def test_a_line_that_is_no_text_is_left_out_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"s{n},{n % 2}".encode() for n in range(40)]
    path.write_bytes(b"\n".join([b"text,label", *lines[:5], b"caf\xe9,1", *lines[5:]]))
    assert "a.csv:7: not UTF-8" in message_of(path)
    task = load_text_task(path, on_broken="skip")
    assert sum(part.num_rows for part in (task.train, task.selection, task.test)) == 40
    assert "a.csv:7: not UTF-8" in task.notes[0]


def test_where_every_row_is_broken_nothing_is_made_of_it(tmp_path: Path) -> None:
    rows: Rows = [{"text": "", "label": "yes"}, {"text": "", "label": "no"}]
    path = jsonl(tmp_path / "a.jsonl", rows)
    told = message_of(path, on_broken="skip")
    assert "no rows that can be used: an empty split" in told
    assert "a.jsonl:1: column 'text': expected text, got ''" in told
    nameless: Rows = [{"text": "x", "label": None}] * 3
    path = jsonl(tmp_path / "b.jsonl", nameless)
    for rule in (None, "skip"):
        told = message_of(path, on_broken=rule)
        assert "b.jsonl:1: column 'label': expected a label, got None" in told
