"""Hub data sets become the same tables (the hub itself replaced by a stand-in)."""

from __future__ import annotations

import re
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ailora.errors import UserError
from ailora.lab.tasks import load_task, load_text_task

FEATURES = Features(
    {"sentence": Value("string"), "label": ClassLabel(names=["unacceptable", "acceptable"])}
)


def part(count: int, start: int = 0, label: int | None = None) -> Dataset:
    rows = range(start, start + count)
    labels = [n % 2 if label is None else label for n in rows]
    return Dataset.from_dict(
        {"sentence": [f"s{n}" for n in rows], "label": labels}, features=FEATURES
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load(*args: Any) -> DatasetDict:
        calls.append(args)
        return DatasetDict(train=part(40), validation=part(8, 100), test=part(5, 200, label=-1))

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("glue/ax", ("nyu-mll/glue", "ax")),
        ("owner/set", ("owner/set", None)),
        ("owner/set/part", ("owner/set", "part")),
        ("owner/set:part", ("owner/set", "part")),
    ],
)
def test_names_lead_to_repository_and_configuration(
    hub: list[tuple[Any, ...]], name: str, address: tuple[str, str | None]
) -> None:
    task = load_task(name)
    assert hub == [address]
    assert task.name == name.replace("/", "-").replace(":", "-")


def test_one_split_of_a_hub_set_may_be_all_rows(hub: list[tuple[Any, ...]]) -> None:
    task = load_task("owner/set:part:validation")
    assert hub == [("owner/set", "part")]
    assert task.train.num_rows + task.selection.num_rows + task.test.num_rows == 8
    with pytest.raises(UserError, match="no split 'dev'; there are train, validation, test"):
        load_task("owner/set::dev")


@pytest.mark.usefixtures("hub")
def test_a_set_of_the_paper_is_known_by_either_spelling() -> None:
    assert load_task("nyu-mll/glue:cola").name == "cola"


@pytest.mark.usefixtures("hub")
def test_class_names_keep_the_hubs_order_and_hidden_test_labels_are_no_test_split() -> None:
    task = load_task("glue/cola")
    assert task.labels == ("unacceptable", "acceptable")
    assert set(task.test["text"]) == {f"s{n}" for n in range(100, 108)}
    assert task.test["label"][:] == [0, 1] * 4
    assert (task.train.num_rows, task.selection.num_rows) == (36, 4)


@pytest.mark.usefixtures("hub")
def test_local_dev_files_do_not_go_with_a_hub_name() -> None:
    with pytest.raises(UserError, match="local train file"):
        load_task("owner/set", dev="dev.csv")


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("no\nsuch"),
        ConnectionError("no route"),
        ValueError("BuilderConfig 'x' not found"),
    ],
)
def test_a_hub_that_fails_gives_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match="cannot load data set 'owner/set'") as caught:
        load_task("owner/set")
    assert "\n" not in str(caught.value)


def test_a_single_row_without_label_is_left_out_with_a_count_or_stops_where_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = datasets.concatenate_datasets([part(20), part(1, 50, label=-1)])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict(train=broken))
    place = r"owner/set \(train\):21: column 'label': label '-1' is not in train"
    task = load_text_task("owner/set")
    assert task.train.num_rows + task.selection.num_rows + task.test.num_rows == 20
    assert re.search(place, task.notes[0])
    with pytest.raises(UserError, match=place):
        load_text_task("owner/set", on_broken="stop")


def test_a_label_that_is_null_is_broken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = Dataset.from_dict({"sentence": ["x"], "label": [None]}, features=FEATURES)
    broken = datasets.concatenate_datasets([part(20), nameless])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict(train=broken))
    with pytest.raises(UserError, match=r":21: column 'label': expected a label, got None"):
        load_text_task("owner/set", on_broken="stop")
