"""GLUE sets from folders shaped as each of them, and from a stand-in for the hub."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ailora.errors import UserError
from ailora.lab.tasks.classification.glue import GLUE, load_glue
from ailora.lab.tasks.classification.text import load_text_task

TEXT = {name: one.text for name, one in GLUE.items()}
PLAIN = ("sentence1", "sentence2")
CLASSES = {name: 3 if name == "mnli" else 2 for name in GLUE if name != "stsb"}


def label_of(name: str, number: int) -> float | int:
    return number % 11 / 2 if name == "stsb" else number % CLASSES[name]


def rows_of(
    name: str, count: int, start: int = 0, columns: Sequence[str] = ()
) -> list[dict[str, Any]]:
    columns = columns or TEXT[name]
    return [
        {**{column: f"{column} {n}" for column in columns}, "label": label_of(name, n)}
        for n in range(start, start + count)
    ]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def folder_of(folder: Path, name: str, dev: Sequence[Mapping[str, Any]] | None = None) -> Path:
    write(folder / name / "train.jsonl.gz", rows_of(name, 66))
    write(folder / name / "dev.jsonl.gz", rows_of(name, 9, 100) if dev is None else dev)
    return folder


def error_of(name: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_glue(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_there_are_the_papers_eight_sets_with_its_headline_scores() -> None:
    assert {name: one.metrics[0] for name, one in GLUE.items()} == {
        **dict.fromkeys(("sst2", "mnli", "qnli", "rte"), "accuracy"),
        **dict.fromkeys(("mrpc", "qqp"), "f1"),
        "cola": "mcc",
        "stsb": "spearman",
    }


def test_class_names_are_in_the_hubs_order() -> None:
    assert {name: one.labels for name, one in GLUE.items()} == {
        "cola": ("unacceptable", "acceptable"),
        "sst2": ("negative", "positive"),
        "mrpc": ("not_equivalent", "equivalent"),
        "stsb": None,
        "qqp": ("not_duplicate", "duplicate"),
        "mnli": ("entailment", "neutral", "contradiction"),
        "qnli": ("entailment", "not_entailment"),
        "rte": ("entailment", "not_entailment"),
    }


@pytest.mark.parametrize("name", list(GLUE))
def test_each_set_is_read_with_the_hubs_columns(tmp_path: Path, name: str) -> None:
    task = load_glue(name, data=folder_of(tmp_path, name))
    assert task.name == name
    assert (task.train.num_rows, task.selection.num_rows, task.test.num_rows) == (59, 7, 9)
    columns = TEXT[name]
    assert list(task.test["text"]) == [f"{columns[0]} {n}" for n in range(100, 109)]
    if len(columns) == 2:
        assert list(task.test["text_pair"]) == [f"{columns[1]} {n}" for n in range(100, 109)]
    assert list(task.test["label"]) == [label_of(name, n) for n in range(100, 109)]
    assert task.is_regression == (name == "stsb")


@pytest.mark.parametrize("name", [name for name, text in TEXT.items() if len(text) == 2])
def test_pairs_may_be_called_sentence1_and_sentence2(tmp_path: Path, name: str) -> None:
    write(tmp_path / name / "train.jsonl.gz", rows_of(name, 60, columns=PLAIN))
    write(tmp_path / name / "dev.jsonl.gz", rows_of(name, 6, 100, columns=PLAIN))
    task = load_glue(name, data=tmp_path)
    assert task.test["text_pair"][0] == "sentence2 100"


def test_labels_may_be_written_as_names(tmp_path: Path) -> None:
    named = [{**row, "label": GLUE["rte"].labels[row["label"]]} for row in rows_of("rte", 6, 100)]  # type: ignore[index]
    task = load_glue("rte", data=folder_of(tmp_path, "rte", named))
    assert list(task.test["label"]) == [0, 1] * 3


def test_the_selection_split_keeps_each_class_in_its_proportion(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "mnli")
    counts = Counter(load_glue("mnli", data=folder, split_seed=3).selection["label"])
    assert sorted(counts.values()) == [2, 2, 3]  # 7 of 66 rows, 22 of each class
    first, other = (load_glue("mnli", data=folder, split_seed=seed) for seed in (0, 1))
    assert set(first.selection["text"]) != set(other.selection["text"])
    assert list(first.test["text"]) == list(other.test["text"])


def test_a_local_test_file_is_left_unread_and_the_dev_rows_are_reported(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "sst2")
    (folder / "sst2" / "test.jsonl.gz").write_bytes(b"not read")
    task = load_glue("sst2", data=folder)
    assert task.test["text"][0] == "sentence 100"
    assert any("dev set" in note for note in task.notes)
    assert any("test file is left unread" in note for note in task.notes)


def test_mnlis_two_dev_sets_are_groups_of_one_test_split(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "mnli")
    alone = load_glue("mnli", data=folder)
    assert set(alone.test["group"]) == {"matched"}
    assert any("matched rows only" in note for note in alone.notes)
    write(folder / "mnli" / "dev_mismatched.jsonl.gz", rows_of("mnli", 5, 200))
    both = load_glue("mnli", data=folder)
    assert list(both.test["group"]) == ["matched"] * 9 + ["mismatched"] * 5
    assert both.test["text"][9] == "premise 200"
    assert not any("matched rows only" in note for note in both.notes)
    assert "group" not in both.train.column_names


def test_metrics_and_limits_may_be_given(tmp_path: Path) -> None:
    task = load_glue(
        "mrpc", data=folder_of(tmp_path, "mrpc"), metrics=["mcc"], limit=10, eval_limit=4
    )
    assert task.metrics == ("mcc",)
    assert (task.train.num_rows, task.selection.num_rows, task.test.num_rows) == (10, 4, 4)
    assert "'mcc'" in error_of("stsb", data=folder_of(tmp_path, "stsb"), metrics=["mcc"])


BROKEN: list[tuple[str, Any, str]] = [
    ("cola", {"sentence": "x", "label": -1}, "-1 marks a label that is not public"),
    ("cola", {"sentence": "x", "label": 2}, "'2' is none of 0 (unacceptable), 1 (acceptable)"),
    ("cola", {"sentence": "x"}, "expected a label, got None"),
    ("sst2", {"sentence": "  ", "label": 1}, "expected text, got '  '"),
    ("mrpc", {"sentence1": "x", "sentence2": None, "label": 1}, "column 'sentence2'"),
    ("stsb", {"sentence1": "x", "sentence2": "y", "label": 5.1}, "from 0 to 5, got '5.1'"),
    ("stsb", {"sentence1": "x", "sentence2": "y", "label": -1}, "from 0 to 5, got '-1'"),
    ("stsb", {"sentence1": "x", "sentence2": "y", "label": "nan"}, "finite number"),
]


@pytest.mark.parametrize(("name", "row", "reason"), BROKEN)
def test_a_broken_local_row_stops_with_file_and_line_or_is_skipped_and_counted(
    tmp_path: Path, name: str, row: Mapping[str, Any], reason: str
) -> None:
    good = rows_of(name, 8, 100)
    folder = folder_of(tmp_path, name, [*good[:2], row, *good[2:], row])
    message = error_of(name, data=folder)
    assert "dev.jsonl.gz:3: " in message
    assert reason in message
    assert 'on_broken="skip"' in message
    task = load_glue(name, data=folder, on_broken="skip")
    whole = load_glue(name, data=folder_of(tmp_path / "whole", name, good))
    assert task.fingerprint == whole.fingerprint
    note = next(note for note in task.notes if "left out" in note)
    assert note.startswith("2 broken rows left out; the first is ")
    assert "dev.jsonl.gz:3: " in note
    assert reason in note


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "no GLUE set is called 'wnli'; there are cola" in error_of("wnli", data=tmp_path)
    assert "rte does not exist" in error_of("rte", data=tmp_path)
    write(tmp_path / "rte" / "train.jsonl.gz", rows_of("rte", 30))
    assert "rte holds no dev file" in error_of("rte", data=tmp_path)
    write(tmp_path / "qnli" / "train.jsonl.gz", [{"text": "x", "label": 1}])
    write(tmp_path / "qnli" / "dev.jsonl.gz", [{"text": "x", "label": 1}])
    assert "no column 'question'" in error_of("qnli", data=tmp_path)
    assert "on_broken='mend'" in error_of("rte", data=tmp_path, on_broken="mend")


def hub_split(name: str, rows: list[dict[str, Any]]) -> Dataset:
    labels = GLUE[name].labels
    label = Value("float32") if labels is None else ClassLabel(names=list(labels))
    features = Features({**{column: Value("string") for column in TEXT[name]}, "label": label})
    return Dataset.from_list(rows, features=features)


def on_the_hub(monkeypatch: pytest.MonkeyPatch, splits: DatasetDict) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load(*address: Any) -> DatasetDict:
        calls.append(address)
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


@pytest.mark.parametrize("name", [name for name in GLUE if name != "mnli"])
def test_the_hub_gives_the_same_task_as_a_folder_and_its_hidden_test_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hidden = [{**row, "label": -1} for row in rows_of(name, 5, 300)]
    splits = DatasetDict(
        train=hub_split(name, rows_of(name, 66)),
        validation=hub_split(name, rows_of(name, 9, 100)),
        test=hub_split(name, hidden),
    )
    calls = on_the_hub(monkeypatch, splits)
    task = load_glue(name)
    assert calls == [("nyu-mll/glue", name)]
    assert task.fingerprint == load_glue(name, data=folder_of(tmp_path, name)).fingerprint


def test_the_hubs_mnli_has_both_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = DatasetDict(
        train=hub_split("mnli", rows_of("mnli", 60)),
        validation_matched=hub_split("mnli", rows_of("mnli", 6, 100)),
        validation_mismatched=hub_split("mnli", rows_of("mnli", 4, 200)),
    )
    on_the_hub(monkeypatch, splits)
    assert list(load_glue("mnli").test["group"]) == ["matched"] * 6 + ["mismatched"] * 4


def test_the_hubs_own_broken_rows_are_skipped_and_counted_unless_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = rows_of("qqp", 66)
    train[40]["question2"] = ""  # as two rows of the official train split
    splits = DatasetDict(
        train=hub_split("qqp", train), validation=hub_split("qqp", rows_of("qqp", 9, 100))
    )
    on_the_hub(monkeypatch, splits)
    task = load_glue("qqp")
    assert task.train.num_rows + task.selection.num_rows == 65
    assert any(
        note.startswith("1 broken row left out; the first is glue/qqp (train):41: ")
        for note in task.notes
    )
    assert "glue/qqp (train):41: column 'question2'" in error_of("qqp", on_broken="stop")


# Rows and labels as the notes of the data folder count them; official where they are.
REAL: dict[str, tuple[list[int], list[int]]] = {
    "cola": ([2528, 6023], [322, 721]),
    "sst2": ([5310, 6690], [428, 444]),
    "mrpc": ([1194, 2474], [129, 279]),
    "qqp": ([7472, 4528], [2595, 1405]),
    "mnli": ([3211, 3323, 3348], [3479, 3123, 3213]),
    "qnli": ([5226, 5248], [2702, 2761]),
    "rte": ([1249, 1241], [146, 131]),
}


def counts(*splits: Dataset) -> list[int]:
    found = Counter(label for split in splits for label in split["label"])
    return [found[label] for label in range(len(found))]


@pytest.mark.skipif("AILORA_DATA" not in os.environ, reason="AILORA_DATA names no data folder")
@pytest.mark.parametrize("name", list(REAL))
def test_the_real_sets_have_the_rows_and_labels_they_should(name: str) -> None:
    train, dev = REAL[name]
    task = load_glue(name, data=os.environ["AILORA_DATA"])
    assert counts(task.train, task.selection) == train
    assert counts(task.test) == dev
    assert not any("left out" in note for note in task.notes)
    for held, total in zip(counts(task.selection), train, strict=True):
        assert abs(held - total / 10) <= 1


@pytest.mark.skipif("AILORA_DATA" not in os.environ, reason="AILORA_DATA names no data folder")
def test_the_real_similarities_are_whole() -> None:
    task = load_glue("stsb", data=os.environ["AILORA_DATA"])
    sizes = (task.train.num_rows, task.selection.num_rows, task.test.num_rows)
    assert sizes == (5749 - 575, 575, 1500)
    assert (min(task.test["label"]), max(task.test["label"])) == (0.0, 5.0)


@pytest.mark.skipif("AILORA_DATA" not in os.environ, reason="AILORA_DATA names no data folder")
def test_all_of_sst2_is_read_as_a_task_of_ones_own() -> None:
    folder = Path(os.environ["AILORA_DATA"]) / "sst2"
    task = load_text_task(folder / "train_full.jsonl.gz", dev=folder / "dev.jsonl.gz")
    assert counts(task.train, task.selection) == [29780, 37569]
    assert counts(task.test) == [428, 444]


@pytest.mark.skipif("AILORA_DATA" not in os.environ, reason="AILORA_DATA names no data folder")
def test_the_real_labels_mean_what_their_names_say() -> None:
    task = load_glue("sst2", data=os.environ["AILORA_DATA"])

    def share(word: str) -> float:
        rows = zip(task.train["text"][:], task.train["label"][:], strict=True)
        found = [label for text, label in rows if word in text.split()]
        return sum(found) / len(found)

    assert share("brilliant") > 0.8
    assert share("worst") < 0.2
