"""Hub data sets become the same tables as files.

There is no hub here. Its place is taken by a stand-in, by folders that `datasets` reads as it reads
repositories (``README.md`` with configs), and by its own cache in a process that is offline.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets.packaged_modules.json.json import Json

from ailora.errors import UserError
from ailora.lab.tasks import (
    ChatTask,
    GenerationTask,
    QATask,
    Task,
    TextTask,
    load_task,
    load_text_task,
)

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
    assert set(hub) == {address}
    assert task.name == name.replace("/", "-").replace(":", "-")


def test_one_split_of_a_hub_set_may_be_all_rows(hub: list[tuple[Any, ...]]) -> None:
    task = load_task("owner/set:part:validation")
    assert set(hub) == {("owner/set", "part")}
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
    with pytest.raises(UserError, match=r"dev='dev\.csv': a file goes with a local train file"):
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
    monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
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


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose folders stand for the repositories of a hub."""
    root, load, configs = (
        tmp_path / "hub",
        datasets.load_dataset,
        datasets.get_dataset_config_names,
    )
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, *args: load(str(root / name), *args, cache_dir=cache)
    )
    monkeypatch.setattr(
        datasets, "get_dataset_config_names", lambda name: configs(str(root / name))
    )
    return root


def published(
    root: Path, name: str, files: Mapping[str, Sequence[Mapping[str, Any]]], readme: str = ""
) -> None:
    """Write a repository: its jsonl files and the YAML of its card."""
    folder = root / name
    folder.mkdir(parents=True)
    for file, rows in files.items():
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if readme:
        (folder / "README.md").write_text(f"---\n{readme}---\n")


def chat(number: int) -> dict[str, Any]:
    return {
        "prompt": f"{number}?",
        "messages": [
            {"role": "user", "content": f"{number}?"},
            {"role": "assistant", "content": f"It is {number}."},
        ],
    }


def question(number: int) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": f"Which number is it in {number}?",
        "context": f"The number is {number}.",
        "answers": {"text": [str(number)], "answer_start": [14]},
    }


KINDS: list[tuple[type[Task], Any]] = [
    (ChatTask, chat),
    (QATask, question),
    (QATask, lambda n: {key: question(n)[key] for key in ("id", "question", "context", "answers")}),
    (
        ChatTask,
        lambda n: {
            "conversations": [
                {"from": "human", "value": f"{n}?"},
                {"from": "gpt", "value": f"It is {n}."},
            ]
        },
    ),
    (GenerationTask, lambda n: {"prompt": f"{n}?", "completion": f"It is {n}."}),
    (GenerationTask, lambda n: {"instruction": f"Say {n}.", "output": f"said {n}", "label": "x"}),
    (GenerationTask, lambda n: {"document": f"A long text of {n}.", "summary": f"text {n}"}),
    (TextTask, lambda n: {"text": f"t{n}", "label": "ab"[n % 2]}),
    (TextTask, lambda n: {"premise": f"p{n}", "hypothesis": f"h{n}", "label": n % 3}),
    (TextTask, lambda n: {"question": f"q{n}", "passage": f"p{n}", "answer": n % 2 == 0}),
    (TextTask, lambda n: {"question": f"q{n}", "context": f"c{n}", "answer": n % 2 == 0}),
    (
        TextTask,
        lambda n: {"question": f"q{n}", "context": f"c{n}", "answer": ["True", "False"][n % 2]},
    ),
]


@pytest.mark.parametrize(("kind", "row"), KINDS)
def test_the_columns_of_a_hub_set_tell_its_kind(
    repositories: Path, kind: type[Task], row: Any
) -> None:
    published(repositories, "owner/set", {"train.jsonl": [row(n) for n in range(40)]})
    task = load_task("owner/set")
    assert type(task) is kind
    assert task.statement is not None
    assert task.statement.source == "owner/set"
    assert task.train.num_rows + task.selection.num_rows + task.test.num_rows == 40


def test_what_is_said_of_a_hub_sets_columns_counts(repositories: Path) -> None:
    rows = [{**question(n), "label": n % 2} for n in range(40)]
    published(repositories, "owner/set", {"train.jsonl": rows})
    assert isinstance(load_task("owner/set"), QATask)
    assert isinstance(load_task("owner/set", text=("question",), label="label"), TextTask)


def test_class_names_that_a_hub_set_declares_are_its_labels(repositories: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = {"text": [f"t{n}" for n in range(40)], "label": [n % 2 for n in range(40)]}
    (repositories / "owner/set").mkdir(parents=True)
    Dataset.from_dict(rows, features=features).to_parquet(repositories / "owner/set/train.parquet")
    task = load_task("owner/set")
    assert isinstance(task, TextTask)
    assert task.labels == ("no", "yes")


CONFIGS = """configs:
- config_name: small
  data_files:
  - {split: train_sft, path: a.jsonl}
  - {split: test_sft, path: b.jsonl}
- config_name: large
  data_files:
  - {split: train, path: b.jsonl}
  - {split: eval, path: a.jsonl}
"""


@pytest.fixture
def with_configs(repositories: Path) -> None:
    files = {"a.jsonl": [chat(n) for n in range(30)], "b.jsonl": [chat(n) for n in range(30, 70)]}
    published(repositories, "owner/set", files, CONFIGS)


@pytest.mark.usefixtures("with_configs")
def test_a_config_that_is_missing_or_unknown_is_answered_with_those_there_are() -> None:
    several = r"several configs, .* as 'owner/set:small' \(there are small, large\)"
    with pytest.raises(UserError, match=several):
        load_task("owner/set")
    unknown = "'owner/set' has no config 'smal': did you mean 'small'.? there are small, large"
    with pytest.raises(UserError, match=unknown):
        load_task("owner/set:smal")


@pytest.mark.usefixtures("with_configs")
def test_splits_are_found_by_their_usual_names_or_named() -> None:
    large = load_task("owner/set:large")
    assert (large.train.num_rows, large.test.num_rows) == (36, 30)  # eval is dev, so the test split
    with pytest.raises(
        UserError,
        match=r"\(there are train_sft, test_sft\); name one, as 'owner/set:small:train_sft'",
    ):
        load_task("owner/set:small")
    odd = load_task("owner/set:small:train_sft", test="test_sft")
    assert (odd.train.num_rows + odd.selection.num_rows, odd.test.num_rows) == (30, 40)
    with pytest.raises(UserError, match="no split 'test'; there are train_sft, test_sft"):
        load_task("owner/set:small:train_sft", test="test")


@pytest.mark.usefixtures("with_configs")
def test_a_part_of_a_split_is_written_as_datasets_writes_it() -> None:
    part = load_task("owner/set:large:train[:50%]", dev="eval[:5]", test="train[-10:]")
    assert (part.train.num_rows, part.selection.num_rows, part.test.num_rows) == (20, 5, 10)
    with pytest.raises(UserError, match=r"no split 'train\[a\]'; there are train, eval"):
        load_task("owner/set:large:train[a]")


def test_a_revision_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> DatasetDict:
        asked.append((*args, options))
        return DatasetDict(train=part(40))

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("owner/set@v1.0:part", "owner/set/part@v1.0"):
        load_task(name)
    assert asked == [("owner/set", "part", {"revision": "v1.0"})] * 4


def in_process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_another_process_that_is_offline_reads_what_datasets_has_cached(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(chat(n)) + "\n" for n in range(40)))
    cache = tmp_path / "datasets"
    for config in ("one", "two"):
        builder = Json(
            dataset_name="set",
            config_name=config,
            hash="0" * 16,
            data_files={"train": [str(tmp_path / "rows.jsonl")]},
            cache_dir=str(cache),
        )
        builder.download_and_prepare()
        Path(builder.cache_dir).parents[1].rename(cache / "set" / config)
    (cache / "set").rename(cache / "owner___set")
    offline = {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    code = "import ailora.lab.tasks as t; print(*t.load_task({!r}).said(), sep='\\n')"
    read = in_process(code.format("owner/set:one"), **offline)
    assert "owner/set:one: conversations (turns 'messages'; left out: prompt)" in read.stdout
    refused = in_process(code.format("owner/set"), **offline)
    assert "UserError" in refused.stderr
