"""Documents and summaries: by local folder, by hub name, in files of your own."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict

from ailora.errors import UserError
from ailora.lab.tasks import GenerationTask
from ailora.lab.tasks.generation.summaries import (
    SETS,
    TEMPLATE,
    load_summaries,
    load_summarization,
)

Row = Mapping[str, Any]


def rows(count: int, start: int = 0) -> list[Row]:
    return [
        {"document": f"document {n}", "summary": f"summary {n}"}
        for n in range(start, start + count)
    ]


def jsonl(path: Path, content: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in content).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def folder_of(root: Path, name: str, **splits: list[Row]) -> Path:
    for part, content in splits.items():
        jsonl(root / name / f"{part}.jsonl.gz", content)
    return root


def message_of(load: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sources(task: GenerationTask) -> list[set[str]]:
    return [set(split["source"]) for split in (task.train, task.selection, task.test)]


def test_a_folder_of_a_known_set_becomes_sources_targets_and_references(tmp_path: Path) -> None:
    data = folder_of(tmp_path, "xsum", train=rows(6), dev=rows(2, 10), test=rows(3, 20))
    task = load_summarization("xsum", data=data)
    assert (task.name, task.metrics) == ("xsum", ("rouge1", "rouge2", "rougeL"))
    assert task.train[0] == {
        "source": "document 0",
        "target": "summary 0",
        "references": ["summary 0"],
    }
    assert [len(part) for part in sources(task)] == [6, 2, 3]
    assert task.template == TEMPLATE
    assert task.template.count("{source}") == 1
    assert task.notes == ()


def test_xsum_and_cnn_have_the_papers_beams_and_the_lengths_it_follows() -> None:
    settings = {
        name: (known.num_beams, known.max_source_tokens, known.max_new_tokens)
        for name, known in SETS.items()
    }
    assert settings["xsum"] == (8, 768, 64)
    assert settings["cnn_dailymail"] == (4, 1024, 160)
    assert all(known.basis for known in SETS.values())


def test_the_tasks_settings_are_those_of_its_set(tmp_path: Path) -> None:
    for name, known in SETS.items():
        task = load_summarization(name, data=folder_of(tmp_path, name, train=rows(30)))
        assert (task.num_beams, task.max_new_tokens) == (known.num_beams, known.max_new_tokens)
        assert task.max_source_tokens == known.max_source_tokens


def test_all_references_are_kept_and_the_first_is_learned_where_no_summary_is(
    tmp_path: Path,
) -> None:
    several = [
        {"document": "d0", "summary": "s", "references": ["s", "t"]},
        {"document": "d1", "references": ["u", "v", "w"]},
        {"document": "d2", "summary": "x", "references": None},
    ]
    data = folder_of(tmp_path, "scitldr", train=several, dev=rows(1, 5), test=rows(1, 7))
    task = load_summarization("scitldr", data=data)
    assert task.train["target"][:] == ["s", "u", "x"]
    assert task.train["references"][:] == [["s", "t"], ["u", "v", "w"], ["x"]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    names = {"abisee/cnn_dailymail": ("article", "highlights")}

    def load(*args: Any) -> DatasetDict:
        calls.append(args)
        document, summary = names.get(args[0], ("document", "summary"))
        splits = {"train": rows(5), "validation": rows(2, 10), "test": rows(2, 20)}
        return DatasetDict(
            {
                part: Dataset.from_dict(
                    {document: [r["document"] for r in some], summary: [r["summary"] for r in some]}
                )
                for part, some in splits.items()
            }
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("xsum", ("EdinburghNLP/xsum", None)),
        ("cnn_dailymail", ("abisee/cnn_dailymail", "3.0.0")),
    ],
)
def test_without_a_folder_the_hub_is_asked_for_the_same_columns(
    hub: list[tuple[Any, ...]], name: str, address: tuple[str, str | None], tmp_path: Path
) -> None:
    task = load_summarization(name)
    assert hub == [address]
    local = folder_of(tmp_path, name, train=rows(5), dev=rows(2, 10), test=rows(2, 20))
    assert task.fingerprint == load_summarization(name, data=local).fingerprint


@pytest.mark.parametrize("name", ["dialogsum", "scitldr"])
def test_sets_without_a_hub_name_ask_for_a_folder(name: str) -> None:
    assert f"{name}/train.jsonl.gz" in message_of(load_summarization, name)


def test_unknown_sets_and_missing_folders_are_told(tmp_path: Path) -> None:
    assert "did you mean 'xsum'" in message_of(load_summarization, "xsums")
    assert str(tmp_path / "xsum") in message_of(load_summarization, "xsum", data=tmp_path)


BROKEN: list[tuple[Any, str]] = [
    ({"document": "", "summary": "s"}, "column 'document': expected text, got ''"),
    ({"document": " \n", "summary": "s"}, "column 'document'"),
    ({"document": "d"}, "column 'summary': expected text, got None"),
    ({"document": "d", "summary": ["s"]}, "column 'summary'"),
    ({"document": "d", "summary": True}, "column 'summary'"),
    ({"document": "d", "summary": "s", "references": []}, "column 'references': expected a list"),
    ({"document": "d", "summary": "s", "references": "s"}, "column 'references': expected a list"),
    ({"document": "d", "summary": "s", "references": ["s", ""]}, "column 'references'"),
    (
        {"document": "half \ud83d", "summary": "s"},
        "column 'document': half a surrogate pair at character 5",
    ),
    ("a word", "expected a JSON object"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_a_broken_row_stops_with_file_and_line_or_is_counted(
    tmp_path: Path, row: Any, message: str
) -> None:
    path = jsonl(tmp_path / "mine.jsonl", [*rows(3), row, *rows(30, 3), row])
    told = message_of(load_summaries, path)
    assert f"{path}:4: " in told
    assert message in told
    task = load_summaries(path, on_broken="skip")
    assert sum(map(len, sources(task))) == 33
    assert f"2 broken rows left out; the first is {path}:4: " in task.notes[0]


def test_bytes_that_are_no_utf_8_stop_with_their_line_or_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "mine.jsonl", rows(30))
    path.write_bytes(path.read_bytes() + b'{"document": "caf\xe9", "summary": "s"}\n')
    assert f"{path}:31: not UTF-8" in message_of(load_summaries, path)
    assert sum(map(len, sources(load_summaries(path, on_broken="skip")))) == 30


def test_your_own_csv_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_text("body,title\n" + "".join(f'"text {n},\nmore",{n}\n' for n in range(20)))
    assert "columns present: body, title" in message_of(load_summaries, path)
    task = load_summaries(path, text=["body"], label="title", max_new_tokens=8, num_beams=2)
    assert task.name == "news"
    assert (task.max_new_tokens, task.num_beams) == (8, 2)
    assert [len(part) for part in sources(task)] == [16, 2, 2]
    assert "text 7,\nmore" in set.union(*sources(task))
    assert set(task.train["target"]) <= {str(n) for n in range(20)}


def test_splits_that_are_missing_are_made_without_overlap_or_loss(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "mine.jsonl", rows(100))
    task = load_summaries(path)
    parts = sources(task)
    assert [len(part) for part in parts] == [80, 10, 10]
    assert len(set.union(*parts)) == 100
    assert sources(load_summaries(path)) == parts
    assert sources(load_summaries(path, split_seed=1)) != parts
    some = load_summaries(path, limit=7, eval_limit=3)
    assert [len(part) for part in sources(some)] == [7, 3, 3]
    assert all(few <= all_ for few, all_ in zip(sources(some), parts, strict=True))
    assert set(task.train.column_names) == {"source", "target", "references"}


def test_texts_that_splits_share_are_noted_but_for_case_spacing_and_punctuation(
    tmp_path: Path,
) -> None:
    jsonl(tmp_path / "train.jsonl", rows(5))
    jsonl(tmp_path / "test.jsonl", [{"document": " Document 1!", "summary": "s s"}, *rows(1, 9)])
    jsonl(tmp_path / "dev.jsonl", rows(2, 20))
    (note,) = load_summaries(tmp_path).notes
    assert note.startswith("1 of 2 test rows have a text that train has too")


def test_the_fingerprint_follows_content_and_template(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a" / "mine.jsonl", rows(40))
    altered = [{**rows(1)[0], "references": ["summary 0", "other"]}, *rows(39, 1)]
    tasks = [
        load_summaries(path),
        load_summaries(jsonl(tmp_path / "b" / "mine.jsonl", altered)),
        load_summaries(path, template="{source} TL;DR:"),
        load_summaries(path, max_new_tokens=5),
    ]
    assert len({task.fingerprint for task in tasks}) == 4
    moved = load_summaries(jsonl(tmp_path / "c" / "x.jsonl.gz", rows(40)))
    assert moved.fingerprint == tasks[0].fingerprint


def test_a_row_that_rouge_cannot_see_is_refused_with_its_line_or_left_out(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(5))
    jsonl(tmp_path / "dev.jsonl", rows(2, 20))
    unseen = [{"document": f"猫 {n}", "summary": "猫は走る"} for n in range(2)]
    jsonl(tmp_path / "test.jsonl", [*rows(2, 30), *unseen])
    message = message_of(load_summaries, tmp_path)
    assert f"{tmp_path / 'test.jsonl'}:3: the right answer '猫は走る' does not score 1" in message
    assert "ASCII letters and digits alone" in message
    assert load_summaries(tmp_path, metrics=["exact"]).metrics == ("exact",)
    task = load_summaries(tmp_path, on_broken="skip")
    assert len(task.test) == 2
    assert "2 broken rows left out" in task.notes[0]


def test_rows_of_a_published_set_stay_and_are_counted_but_a_whole_split_is_refused(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "scitldr"
    folder.mkdir()
    jsonl(folder / "train.jsonl", rows(5))
    jsonl(folder / "dev.jsonl", rows(2, 20))
    unseen = [{"document": f"猫 {n}", "summary": "猫は走る"} for n in range(2)]
    jsonl(folder / "test.jsonl", [*unseen, *rows(2, 30)])
    task = load_summarization("scitldr", data=tmp_path)
    assert len(task.test) == 4
    assert task.notes[0].startswith("2 of 4 test rows: the right answer '猫は走る'")
    jsonl(folder / "test.jsonl", unseen)
    message = message_of(load_summarization, "scitldr", data=tmp_path)
    assert "scitldr, test, all 2 rows: the right answer" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["rouge"]}, "did you mean"),
        ({"metrics": []}, "name one or more"),
        ({"template": "Summarise:"}, "must hold {source} once"),
        ({"template": "{source}{source}"}, "must hold {source} once"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"text": ["a", "b"]}, "one column of documents"),
        ({"limit": 0}, "limit of 0"),
        ({"on_broken": "drop"}, "on_broken='drop'"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = jsonl(tmp_path / "mine.jsonl", rows(30))
    assert message in message_of(load_summaries, path, **options)


SIZES = {"xsum": (1631, 200, 500), "scitldr": (1992, 619, 618), "dialogsum": (1500, 500, 500)}


@pytest.mark.skipif("AILORA_DATA" not in os.environ, reason="needs the real sets")
@pytest.mark.parametrize("name", SIZES)
def test_the_real_sets_load_whole(name: str) -> None:
    task = load_summarization(name, data=os.environ["AILORA_DATA"])
    assert (len(task.train), len(task.selection), len(task.test)) == SIZES[name]
    assert max(map(len, task.test["references"])) == {"xsum": 1, "scitldr": 4, "dialogsum": 3}[name]
