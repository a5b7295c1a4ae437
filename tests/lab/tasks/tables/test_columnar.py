"""Parquet, Arrow and Feather files, compressed tables and shards are the same rows as jsonl."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from pyarrow import feather, parquet

from ailora.errors import UserError
from ailora.lab.tasks import GenerationTask, TextTask, load_task
from ailora.lab.tasks.tables.read import read_table

ROWS = [{"text": f"letter {n}", "label": ["in", "out"][n % 2], "page": n} for n in range(40)]


def jsonl(rows: Sequence[Any] = ROWS) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": _zst,
}


def _arrow(path: Path, opened: Callable[..., Any]) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, opened(sink, table.schema) as writer:
        writer.write_table(table)


WRITE: dict[str, Callable[[Path], Any]] = {
    "x.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "x.feather": lambda path: feather.write_feather(pa.Table.from_pylist(ROWS), str(path)),
    "file.arrow": lambda path: _arrow(path, pa.ipc.new_file),
    "stream.arrow": lambda path: _arrow(path, pa.ipc.new_stream),
}


@pytest.fixture
def plain(tmp_path: Path) -> TextTask:
    (tmp_path / "plain.jsonl").write_bytes(jsonl())
    task = load_task(tmp_path / "plain.jsonl")
    assert isinstance(task, TextTask)
    return task


@pytest.mark.parametrize("name", WRITE)
def test_a_file_stored_by_column_is_the_same_task(
    tmp_path: Path, name: str, plain: TextTask
) -> None:
    WRITE[name](tmp_path / name)
    task = load_task(tmp_path / name)
    assert task.fingerprint == plain.fingerprint
    assert task.name == Path(name).stem
    assert tuple(read_table(tmp_path / name).rows)[1] == ("row 2", ROWS[1])


@pytest.mark.parametrize("end", PACKED)
def test_a_compressed_file_is_the_same_task(tmp_path: Path, end: str, plain: TextTask) -> None:
    path = tmp_path / f"x.jsonl{end}"
    path.write_bytes(PACKED[end](jsonl()))
    task = load_task(path)
    assert (task.fingerprint, task.name) == (plain.fingerprint, "x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"train.jsonl{end}").write_bytes(PACKED[end](jsonl()))
    assert load_task(folder).fingerprint == plain.fingerprint
    path.write_bytes(PACKED[end](jsonl())[:-20])
    with pytest.raises(UserError, match=r"x\.jsonl\.\w+: broken \w+ file") as caught:
        load_task(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*WRITE, "x.jsonl.bz2", "x.jsonl.xz", "x.jsonl.zst"])
def test_what_is_not_of_the_kind_its_name_says_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"a,b\n1,2\n3,4\n")
    with pytest.raises(UserError, match=f"{name}: ") as caught:
        load_task(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_row_without_a_label_is_named_by_its_number(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([*ROWS, {"text": "lost", "label": None, "page": 1}])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet: row 41: column 'label': expected a label"):
        load_task(tmp_path / "x.parquet")


def test_class_names_that_datasets_stored_are_the_labels(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"text": f"t{n}", "label": n % 2} for n in range(30)])
    named = rows.cast_column("label", ClassLabel(names=["spam", "ham"]))
    named.to_parquet(str(tmp_path / "x.parquet"))
    named.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    DatasetDict(train=named, test=named.take(4)).save_to_disk(str(tmp_path / "parts"))
    for name in ("x.parquet", "saved", "parts"):
        task = load_task(tmp_path / name)
        assert isinstance(task, TextTask)
        assert task.labels == ("spam", "ham")
    assert task.test["label"][:] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "names",
    [
        [f"train-{n:05}-of-00003.jsonl" for n in range(3)],
        [f"part-{n:05}.jsonl" for n in range(3)],
        [f"part_{n}.jsonl" for n in range(3)],
        [f"train/{n}.jsonl" for n in range(3)],
    ],
)
def test_shards_are_one_split_in_the_order_of_their_names(
    tmp_path: Path, names: list[str], plain: TextTask
) -> None:
    for number, name in enumerate(names):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jsonl(ROWS[number * 15 : number * 15 + 15]))
    (tmp_path / "set" / "README.md").write_text("not read")
    assert load_task(tmp_path / "set").fingerprint == plain.fingerprint


def test_a_broken_row_of_a_shard_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "train-1.jsonl").write_bytes(jsonl(ROWS[:20]))
    (tmp_path / "train-2.jsonl").write_bytes(jsonl([*ROWS[20:], {"text": "lost"}]))
    with pytest.raises(UserError, match=r": train-2\.jsonl:21: column 'label'"):
        load_task(tmp_path)
    task = load_task(tmp_path, on_broken="skip")
    assert task.train.num_rows + task.selection.num_rows + task.test.num_rows == 40


def test_each_split_has_its_shards_and_a_whole_train_file_goes_before_them(tmp_path: Path) -> None:
    for part, rows in (("train", ROWS[:30]), ("validation", ROWS[30:35]), ("test", ROWS[35:])):
        table = pa.Table.from_pylist(rows)
        parquet.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet")
    task = load_task(tmp_path)
    assert [len(part) for part in (task.train, task.selection, task.test)] == [30, 5, 5]
    (tmp_path / "train.jsonl").write_bytes(jsonl(ROWS[:20]))
    task = load_task(tmp_path)
    assert [len(part) for part in (task.train, task.selection, task.test)] == [16, 2, 2]


def test_the_kind_of_shards_is_told_by_all_of_them(tmp_path: Path) -> None:
    asked = [{"instruction": f"i {n}", "output": f"o {n}"} for n in range(20)]
    (tmp_path / "part-0.jsonl").write_text("broken\n")
    (tmp_path / "part-1.jsonl").write_bytes(jsonl(asked))
    with pytest.raises(UserError, match=r"part-0\.jsonl:1: not JSON"):
        load_task(tmp_path)
    (tmp_path / "part-0.jsonl").write_bytes(jsonl([{"instruction": "i", "output": "o"}]))
    assert isinstance(load_task(tmp_path), GenerationTask)
