"""Questions from files of every form, their splits, and what becomes of broken rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from ailora.errors import UserError
from ailora.lab.tasks import QATask, load_task
from ailora.lab.tasks.qa import (
    load_squad,
    load_squad_set,
    load_squad_v1,
    load_squad_v2,
    load_xquad_en,
)
from ailora.lab.tasks.qa.answers import score_questions
from tests.lab.tasks.qa.data import REAL, needs_real, nested, row, write_jsonl

UNANSWERED = {"answers": {"text": [], "answer_start": []}}


def message_of(*args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_squad(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contexts(task: QATask) -> tuple[set[str], set[str], set[str]]:
    return tuple(set(split["context"]) for split in (task.train, task.selection, task.test))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_train_alone_is_split_without_a_shared_context_or_a_lost_question(
    tmp_path: Path, name: str
) -> None:
    rows = [row(number // 4, id=str(number)) for number in range(80)]
    task = load_squad(write_jsonl(tmp_path / name, rows))
    train, selection, test = contexts(task)
    assert not (train & selection or train & test or selection & test)
    assert (len(task.train), len(task.selection), len(task.test)) == (64, 8, 8)
    everything = [*task.train["id"], *task.selection["id"], *task.test["id"]]
    assert sorted(everything, key=int) == [str(number) for number in range(80)]
    assert (task.name, task.metrics, task.has_unanswerable) == (
        "mine",
        ("f1", "exact_match"),
        False,
    )


def test_dev_becomes_test_and_a_tenth_of_train_is_held_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [row(number) for number in range(40)])
    write_jsonl(tmp_path / "dev.jsonl", [row(number) for number in range(40, 45)])
    task = load_squad(tmp_path)
    assert task.test["id"][:] == [f"q{number}" for number in range(40, 45)]
    assert (len(task.train), len(task.selection)) == (36, 4)
    assert len(task.notes) == 2
    assert task.fingerprint == load_squad(tmp_path).fingerprint
    assert task.fingerprint != load_squad(tmp_path, split_seed=1).fingerprint


def test_three_files_are_taken_as_they_are_and_shared_contexts_are_told(tmp_path: Path) -> None:
    for part, numbers in (("train", (1, 2, 3)), ("validation", (4,)), ("test", (3, 5))):
        write_jsonl(tmp_path / f"{part}.jsonl", [row(number) for number in numbers])
    task = load_squad(tmp_path)
    assert [len(split) for split in (task.train, task.selection, task.test)] == [3, 1, 2]
    assert task.notes == ("1 of 2 test questions have a context of train",)


def test_titles_are_kept_whole_where_there_are_enough_of_them(tmp_path: Path) -> None:
    rows = [row(number, title=f"t{number % 20}") for number in range(200)]
    task = load_squad(write_jsonl(tmp_path / "mine.jsonl", rows))
    titles = [
        {int(name[1:]) % 20 for name in split["id"]}
        for split in (task.train, task.selection, task.test)
    ]
    assert [len(found) for found in titles] == [16, 2, 2]
    few = [{**one, "title": "one"} for one in rows]
    assert "by whole contexts" in load_squad(write_jsonl(tmp_path / "few.jsonl", few)).notes[0]


def test_limits_keep_that_many_questions_after_the_split(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "mine.jsonl", [row(number) for number in range(100)])
    task = load_squad(source, limit=7, eval_limit=3)
    assert [len(split) for split in (task.train, task.selection, task.test)] == [7, 3, 3]
    assert set(task.train["id"]) <= set(load_squad(source).train["id"])
    assert "limit of 0" in message_of(source, limit=0)


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_squads_own_json_reads_as_the_same_task(tmp_path: Path, version: str) -> None:
    rows = [row(number) for number in range(30)]
    if version == "v2.0":
        rows[4] |= UNANSWERED
    flat = load_squad(write_jsonl(tmp_path / "flat.jsonl", rows))
    document = json.dumps(nested(rows, version=version)).encode()
    (tmp_path / "own.json").write_bytes(b"\xef\xbb\xbf" + document)
    (tmp_path / "zipped.json.gz").write_bytes(gzip.compress(document))
    for name in ("own.json", "zipped.json.gz"):
        task = load_squad(tmp_path / name)
        assert task.fingerprint == flat.fingerprint
        assert task.has_unanswerable == (version == "v2.0")


def test_a_table_with_one_answer_a_row_needs_no_ids_and_no_starts(tmp_path: Path) -> None:
    lines = ["question,context,answer"]
    lines += [f"Where {n}?,It is in town{n} and town{n}.,town{n}" for n in range(10)]
    lines += ["Why?,Nobody knows.,"]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    task = load_squad(tmp_path / "mine.csv", test=write_jsonl(tmp_path / "test.jsonl", [row(1)]))
    rows = [*task.train, *task.selection]
    starts = {tuple(one["answers"]["answer_start"]) for one in rows}
    assert starts == {(9,), ()}
    assert sorted(one["id"] for one in rows) == sorted(map(str, range(1, 12)))
    assert task.has_unanswerable


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": None}, "'id': expected text, got None"),
        ({"id": "q1"}, "id 'q1' is also at"),
        ({"question": " "}, "'question': expected text, got ' '"),
        ({"context": None}, "'context': expected text, got None"),
        ({"question": "half \ud800"}, "'question': half a surrogate pair at character 5"),
        ({"answers": None}, "'answers' is None"),
        ({"answers": {"text": "x"}}, "answers.text is 'x'"),
        ({"answers": {"text": ["Jo"], "answer_start": [1, 2]}}, "1 texts but answer_start [1, 2]"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "an answer is ''"),
        ({"answers": {"text": [True], "answer_start": [0]}}, "an answer is True"),
        ({"answers": {"text": ["\u200b"], "answer_start": [0]}}, "an answer is '\\u200b'"),
        ({"answers": {"text": ["Jo"], "answer_start": [-1]}}, "answer_start is -1"),
        ({"answers": {"text": ["Jo"], "answer_start": [1.5]}}, "answer_start is 1.5"),
        ({"is_impossible": True}, "is_impossible is true but there are answers"),
    ],
)
def test_a_row_of_broken_structure_stops_with_file_and_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "train.jsonl"
    rows = [row(1), row(2), row(3, **change), *(row(number) for number in range(4, 14))]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    told = message_of(tmp_path)
    assert told.startswith(f"{path}:3: ")
    assert said in told
    assert told == message_of(tmp_path, on_broken="stop")
    task = load_squad(tmp_path, on_broken="skip")
    kept = {*task.train["id"], *task.selection["id"], *task.test["id"]}
    assert kept == {f"q{number}" for number in (1, 2, *range(4, 14))}
    assert task.notes[0].startswith(f"1 broken row left out; the first is {path}:3: ")
    assert said in task.notes[0]


def test_what_is_no_object_is_skipped_in_tables_and_in_documents(tmp_path: Path) -> None:
    rows = [row(number) for number in range(12)]
    table = write_jsonl(tmp_path / "mine.jsonl", rows)
    whole = load_squad(table)
    table.write_bytes(b'["no"]\n{"id": "\xff"}\n' + table.read_bytes())
    document = nested(rows, version="1.1")
    document["data"].insert(0, "no")
    document["data"][1]["paragraphs"][0]["qas"].append(7)
    own = tmp_path / "own.json"
    own.write_text(json.dumps(document))
    assert message_of(table).startswith(f"{table}:1: expected a JSON object")
    assert message_of(own).startswith(f"{own}: data[0]: expected a JSON object, got 'no'")
    for path, first in ((table, ":1: "), (own, ": data[0]: ")):
        task = load_squad(path, on_broken="skip")
        assert task.fingerprint == whole.fingerprint
        assert task.notes[0].startswith(f"2 broken rows left out; the first is {path}{first}")


def test_rows_that_are_all_broken_are_no_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", [row(1, context=None), row(2, context="")])
    assert "has no rows that can be used" in message_of(path, on_broken="skip")


def test_told_to_stop_it_stops_at_a_misplaced_training_answer_but_not_in_test(
    tmp_path: Path,
) -> None:
    wrong = {"answers": {"text": ["town3"], "answer_start": [2]}}
    write_jsonl(tmp_path / "test.jsonl", [row(20), row(21, **wrong)])
    path = write_jsonl(tmp_path / "train.jsonl", [row(number) for number in range(12)])
    assert len(load_squad(tmp_path, on_broken="stop").test) == 2
    write_jsonl(path, [row(1), row(3, **wrong), row(4)])
    told = message_of(tmp_path, on_broken="stop")
    assert told.startswith(f"{path}:2: the answer 'town3' is not in the context at answer_start")


def test_a_document_in_a_folder_is_found_and_known_for_what_it_is(tmp_path: Path) -> None:
    rows = [row(number) for number in range(12)]
    (tmp_path / "train.json").write_text(json.dumps(nested(rows, version="1.1")))
    task = load_task(tmp_path)
    assert isinstance(task, QATask)
    assert task.fingerprint == load_squad(write_jsonl(tmp_path / "x.jsonl", rows)).fingerprint


def test_bytes_that_are_not_utf8_stop_with_file_and_line(tmp_path: Path) -> None:
    table, document = tmp_path / "mine.jsonl", tmp_path / "mine.json"
    table.write_bytes(json.dumps(row(1)).encode() + b"\n" + b'{"id": "\xff"}\n')
    document.write_bytes(b'{"data":\n[\n"\xff"]}')
    assert f"{table}:2: not UTF-8: byte 0xff" in message_of(table)
    assert f"{document}:3: not UTF-8: byte 0xff" in message_of(document)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"data": [', ":1: not JSON"),
        ('{"data": []}', "no questions"),
        ("[]", "no list 'data'"),
        ('{"data": [{"paragraphs": [{}]}]}', "data[0].paragraphs[0].no list 'qas'"),
        ('{"data": [{"paragraphs": [{"qas": [1]}]}]}', "data[0].paragraphs[0].qas[0]: expected"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{}]}]}]}',
            "qas[0]: column 'question'",
        ),
    ],
)
def test_a_broken_document_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    told = message_of(path)
    assert str(path) in told
    assert said in told


def test_a_misplaced_answer_is_left_out_of_train_counted_and_kept_in_test(tmp_path: Path) -> None:
    wrong = {"answers": {"text": ["town3"], "answer_start": [2]}}
    context = row(5)["context"]
    half = {"answers": {"text": ["Jo", "Jo"], "answer_start": [0, context.index("Jo")]}}
    nowhere = {"answers": {"text": ["Rome"]}}
    train = [row(1), row(2), row(3, **wrong), row(4, **nowhere), row(5, **half), row(6)]
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "dev.jsonl", [row(20)])
    write_jsonl(tmp_path / "test.jsonl", [row(3, **wrong), row(21, **nowhere)])
    task = load_squad(tmp_path)
    assert task.train["id"][:] == ["q1", "q2", "q5", "q6"]
    assert task.train["answers"][2] == {"text": ["Jo"], "answer_start": [context.index("Jo")]}
    assert task.test["answers"][0] == wrong["answers"]
    assert task.test["answers"][1] == {"text": ["Rome"], "answer_start": [-1]}
    assert not task.has_unanswerable
    assert task.notes == (
        "train: 3 answers not in their context at answer_start left out, and 2 questions that "
        "have no other",
        "test: 2 answers not in their context at answer_start kept",
    )


def test_a_file_whose_every_answer_is_misplaced_is_refused(tmp_path: Path) -> None:
    rows = [row(n, answers={"text": ["town"], "answer_start": [n]}) for n in range(3)]
    assert "none of the 3 training" in message_of(write_jsonl(tmp_path / "mine.jsonl", rows))


def test_one_context_cannot_be_split(tmp_path: Path) -> None:
    rows = [row(1, id=str(number)) for number in range(20)]
    assert "have one context" in message_of(write_jsonl(tmp_path / "mine.jsonl", rows))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no set of questions is called 'squad'; there are squad_v1"
    ):
        load_squad_set("squad")
    assert "does not exist" in message_of(tmp_path / "no.jsonl")
    assert "does not exist" in message_of(tmp_path / "no.json")
    assert "holds no train file" in message_of(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [row(1)])
    write_jsonl(tmp_path / "train.jsonl.gz", [row(1)])
    assert "keep one" in message_of(tmp_path)


def test_hub_names_are_loaded_with_their_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fake(name: str, config: str | None) -> dict[str, datasets.Dataset]:
        asked.append((name, config))
        rows = [row(number) for number in range(20)]
        unanswered = row(30, **UNANSWERED) if "v2" in name else row(30)
        made = {"train": rows, "validation": [row(29), unanswered]}
        return {part: datasets.Dataset.from_list(found) for part, found in made.items()}

    monkeypatch.setattr(datasets, "load_dataset", fake)
    one, two, cross = load_squad_v1(), load_squad_v2(), load_xquad_en()
    assert asked == [
        ("rajpurkar/squad", None),
        ("rajpurkar/squad_v2", None),
        ("rajpurkar/squad", None),
        ("google/xquad", "xquad.en"),
    ]
    assert [task.name for task in (one, two, cross)] == ["squad_v1", "squad_v2", "xquad_en"]
    assert [task.has_unanswerable for task in (one, two, cross)] == [False, True, False]
    assert [len(task.test) for task in (one, two, cross)] == [2, 2, 2]


@needs_real
def test_the_real_sets_have_their_known_sizes_and_no_shared_context() -> None:
    sizes = {load_squad_v1: (11877, 10570), load_squad_v2: (5147, 6078)}
    for load, (train, test) in sizes.items():
        task = load(data=REAL)
        assert (len(task.train) + len(task.selection), len(task.test)) == (train, test)
        assert 0.05 * train < len(task.selection) <= 0.1 * train + 1
        kept, held, _ = contexts(task)
        assert not kept & held
        assert not any("context of" in note for note in task.notes)
    assert len(load_xquad_en(data=REAL).test) == 1190


@pytest.mark.parametrize("text", ["A", "The", "?", "an a"])
def test_an_answer_that_squads_rules_leave_nothing_of_is_compared_as_it_is(
    tmp_path: Path, text: str
) -> None:
    def graded(n: int) -> dict[str, Any]:
        return row(n, context=f"{row(n)['context']} {text}", answers=[text])

    path = write_jsonl(tmp_path / "mine.jsonl", [graded(n) for n in range(40)])
    task = load_task(path)
    assert isinstance(task, QATask)
    assert f"test: 4 answers such as {text!r} are compared as they are" in " ".join(task.notes)
    gold = task.test["answers"][:]
    for said, right in ((text, 1), (text.lower(), 1), ("", 0), ("an", 0), ("Jo", 0)):
        for v2 in (False, True):
            found = score_questions(
                [said] * 4, gold, has_unanswerable=v2, literal=task.literal
            ).summary()
            assert found == {"f1": right, "exact_match": right}


def test_the_sets_that_are_published_are_scored_by_their_own_rules_throughout(
    tmp_path: Path,
) -> None:
    rows = [row(n) for n in range(40)]
    for part in ("train", "dev"):
        write_jsonl(tmp_path / "squad_v1" / f"{part}.jsonl", rows)
    assert not load_squad_v1(data=tmp_path).literal


@pytest.mark.parametrize("answer", [7, 2.5])
def test_an_answer_may_be_a_number_or_stand_in_a_plain_list(tmp_path: Path, answer: float) -> None:
    rows = [row(n, context=f"Film {n} cost {answer}.", answers=[str(answer)]) for n in range(20)]
    for one in rows[::2]:
        del one["answers"]
        one["answer"] = answer
    path = write_jsonl(tmp_path / "mine.jsonl", [{**one} for one in rows[::2]])
    task = load_task(path)
    assert isinstance(task, QATask)
    assert {text for gold in task.train["answers"][:] for text in gold["text"]} == {str(answer)}
    listed = load_squad(write_jsonl(tmp_path / "listed.jsonl", rows[1::2]))
    assert {text for gold in listed.train["answers"][:] for text in gold["text"]} == {str(answer)}
