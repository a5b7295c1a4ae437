"""The arithmetic task from local files and the hub: what is learned, held, dropped, refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from ailora.errors import UserError
from ailora.lab.tasks.generation.arithmetic import hub_table, load_arithmetic
from ailora.lab.tasks.generation.text_scores import score
from tests.lab.tasks.generation.arithmetic_sets import TESTS, record, write_all, write_set

REAL = os.environ.get("AILORA_DATA")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_all(tmp_path / "sets")


def test_gsm8k_and_mawps_are_learned_and_five_tests_are_groups(data: Path) -> None:
    task = load_arithmetic(data=data)
    assert task.name == "arithmetic"
    assert task.metrics == ("number",)
    assert task.train["source"] == [
        *(f"Train {n}?" for n in range(8)),
        *(f"Mawps {n} ." for n in range(4)),
    ]
    assert task.train[9]["target"] == "1.5 = 1.5\nThe answer is 1.5."
    assert task.selection["source"] == [f"Dev {n}?" for n in range(3)]
    groups = [name for count, name in enumerate(TESTS, start=1) for _ in range(count)]
    assert task.test["group"] == groups
    assert task.test[-1]["references"] == ["40"]
    assert "group" not in task.train.column_names


def test_the_prompt_is_alpacas_with_the_problem_as_instruction(data: Path) -> None:
    filled = load_arithmetic(data=data).template.replace("{source}", "How many?")
    first, *lines = filled.split("\n")
    assert first.startswith("Below is an instruction that describes a task.")
    assert lines == ["", "### Instruction:", "How many?", "", "### Response:", ""]


def test_an_input_follows_its_instruction_under_a_heading(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    rows = [
        record("Add.", 3, input="1 and 2"),
        *(record(f"Own {n}", n, input="") for n in range(9)),
    ]
    own.write_text(json.dumps(rows), encoding="utf-8")
    task = load_arithmetic(data=data, train_file=own)
    assert task.train["source"][:2] == ["Add.\n\n### Input:\n1 and 2", "Own 0"]
    assert len(task.train) == 10


def test_without_a_dev_file_a_tenth_is_held_out_by_the_seed(data: Path) -> None:
    (data / "gsm8k" / "dev.jsonl.gz").unlink()
    found = [load_arithmetic(data=data, split_seed=seed) for seed in (0, 0, 1, 2, 3)]
    for task in found:
        assert (len(task.train), len(task.selection)) == (11, 1)
        assert not set(task.train["source"]) & set(task.selection["source"])
        assert any("1 rows held out" in note for note in task.notes)
    assert found[0].fingerprint == found[1].fingerprint
    assert len({task.selection["source"][0] for task in found}) > 1


def test_limits_are_of_training_of_selection_and_of_each_test(data: Path) -> None:
    task = load_arithmetic(data=data, limit=5, eval_limit=2)
    assert (len(task.train), len(task.selection)) == (5, 2)
    assert [task.test["group"].count(name) for name in TESTS] == [1, 2, 2, 2, 2]
    whole = load_arithmetic(data=data)
    order = [whole.train["source"].index(source) for source in task.train["source"]]
    assert order == sorted(order)
    assert task.fingerprint != whole.fingerprint
    for limit in ({"limit": 0}, {"eval_limit": 0}):
        with pytest.raises(UserError, match="a limit of 0 rows"):
            load_arithmetic(data=data, **limit)


def leak(data: Path) -> None:
    """Two problems of tests and one of dev among those to learn, written otherwise."""
    rows = [record(f"Train {n}?", n) for n in range(8)]
    rows += [record("SINGLEEQ 2 ?", 20), record("svamp  1 .", 10), record("dev 1", 1)]
    write_set(data / "gsm8k", "train", rows)


def test_leaked_problems_are_counted_and_dropped(data: Path) -> None:
    leak(data)
    kept = load_arithmetic(data=data, drop_overlap=False)
    assert len(kept.train) == 15
    aside = "are training problems (case, spacing and punctuation aside)"
    assert kept.notes == (
        f"1 of 3 selection rows {aside}",
        f"0 of 1 multiarith rows {aside}",
        f"0 of 2 gsm8k rows {aside}",
        f"0 of 3 addsub rows {aside}",
        f"1 of 4 singleeq rows {aside}",
        f"1 of 5 svamp rows {aside}",
    )
    dropped = load_arithmetic(data=data)
    assert dropped.train["source"] == [
        source for source in kept.train["source"] if source[0] in "TM"
    ]
    assert dropped.notes[0] == "3 training rows dropped that are in a held set"
    assert all(note.startswith("0 of") for note in dropped.notes[1:])


def test_the_sets_to_test_on_are_named(data: Path) -> None:
    task = load_arithmetic(data=data, tests=("svamp", "addsub"))
    assert list(dict.fromkeys(task.test["group"])) == ["svamp", "addsub"]
    assert task.fingerprint != load_arithmetic(data=data).fingerprint
    for none in ((), "svamp"):
        with pytest.raises(UserError, match="name one set or more"):
            load_arithmetic(data=data, tests=none)


def test_what_is_dropped_does_not_depend_on_how_many_rows_are_scored(data: Path) -> None:
    leak(data)
    whole, few = load_arithmetic(data=data), load_arithmetic(data=data, eval_limit=1)
    assert few.train["source"] == whole.train["source"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "x", "output": "y"}, "column 'answer'"),
        (record("x", "many"), "expected a number, or a letter from A to E, got 'many'"),
        (record("x", "nan"), "expected a number"),
        (record("  ", 1), "column 'instruction': expected text, got '  '"),
    ],
)
def test_a_broken_test_row_stops_with_file_and_line_or_is_counted(
    data: Path, row: dict[str, str], reason: str
) -> None:
    path = write_set(data / "svamp", "test", [record("fine", 1), row, record("too", 2)])
    with pytest.raises(UserError) as caught:
        load_arithmetic(data=data)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)
    task = load_arithmetic(data=data, on_broken="skip")
    assert task.test["group"].count("svamp") == 2
    assert any("1 broken row left out" in note and ":2: " in note for note in task.notes)


def test_a_training_row_needs_an_output_but_no_answer(data: Path) -> None:
    rows = [{"instruction": f"p {n}", "output": f"so {n}"} for n in range(3)]
    path = write_set(data / "mawps", "train", rows)
    assert load_arithmetic(data=data).train[-1]["references"] == ["so 2"]
    write_set(data / "mawps", "train", [*rows, {"instruction": "p", "answer": "4"}])
    with pytest.raises(UserError, match=r"train\.jsonl\.gz:4: column 'output'"):
        load_arithmetic(data=data)
    assert path.exists()


def test_sets_of_letters_are_scored_by_choice(data: Path) -> None:
    write_set(data / "aqua", "test", [record("Which?", "B")])
    task = load_arithmetic(data=data, tests=("aqua",), metrics=("choice",))
    assert task.test[0] == {
        "source": "Which?",
        "target": "The answer is B.",
        "references": ["B"],
        "group": "aqua",
    }
    assert task.metrics == ("choice",)


def test_what_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="gsm8k does not exist; data is the folder that holds gsm8k"
    ):
        load_arithmetic(data=tmp_path / "nowhere")
    with pytest.raises(UserError, match="aqua does not exist"):
        load_arithmetic(data=data, tests=("aqua",))
    (data / "aqua").mkdir()
    with pytest.raises(UserError, match=r"aqua holds no test file; expected test\."):
        load_arithmetic(data=data, tests=("aqua",))
    with pytest.raises(UserError, match="no score of generated texts is called 'numbr'"):
        load_arithmetic(data=data, metrics=("numbr",))
    with pytest.raises(UserError, match="tests="):
        load_arithmetic(data=data, tests=())


@pytest.mark.skipif(REAL is None, reason="AILORA_DATA is not set")
def test_the_real_sets_have_their_published_sizes_and_a_leak_that_is_found() -> None:
    task = load_arithmetic(data=REAL, drop_overlap=False)
    sizes = {name: task.test["group"].count(name) for name in TESTS}
    published = {"multiarith": 600, "gsm8k": 1319, "addsub": 395, "singleeq": 508, "svamp": 1000}
    assert sizes == published
    assert len(task.train) == 7657
    assert any(note.startswith("38 of 600 multiarith rows") for note in task.notes)
    assert len(load_arithmetic(data=REAL).train) == 7657 - 43


SOLUTION = "She has 2*3=<<2*3=6>>6 eggs.\nSo 6+1=<<6+1=7>>7.\n#### 1,007"
ROWS: dict[tuple[str, str | None], list[dict[str, Any]]] = {
    ("openai/gsm8k", None): [{"question": "Eggs?", "answer": SOLUTION}] * 2,
    ("MU-NLPC/Calc-mawps", None): [
        {"question": "Pounds ?", "expression": "49 - 44", "result": "5"}
    ],
    ("HuggingFaceTB/math_tasks", "data/mawps/multiarith.jsonl"): [{"input": "M?", "target": 4.0}],
    ("HuggingFaceTB/math_tasks", "data/mawps/addsub.jsonl"): [{"input": "A?", "target": 9.8}],
    ("HuggingFaceTB/math_tasks", "data/mawps/singleeq.jsonl"): [{"input": "S?", "target": 0.6}],
    ("HuggingFaceTB/math_tasks", "data/svamp/test.jsonl"): [
        {"Body": "He has 8.", "Question": "How many?", "Answer": 8.0}
    ],
}


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, config: str | None, *, data_files: Any, split: str) -> datasets.Dataset:
        file = data_files[split] if data_files else None
        return datasets.Dataset.from_list(ROWS[name, file])

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.usefixtures("fake_hub")
def test_the_sets_of_the_hub_become_the_same_task() -> None:
    task = load_arithmetic(split_seed=1)
    rows = {row["source"]: row for row in (*task.train, *task.selection)}
    eggs = "She has 2*3=6 eggs.\nSo 6+1=7.\nThe answer is 1,007."
    assert rows["Pounds ?"]["target"] == "49 - 44 = 5\nThe answer is 5."
    tests = {row["group"]: (row["source"], row["references"]) for row in task.test}
    assert tests == {
        "multiarith": ("M?", ["4.0"]),
        "gsm8k": ("Eggs?", ["1,007"]),
        "addsub": ("A?", ["9.8"]),
        "singleeq": ("S?", ["0.6"]),
        "svamp": ("He has 8. How many?", ["8.0"]),
    }
    learned = load_arithmetic(split_seed=1, drop_overlap=False)
    assert eggs in {row["target"] for row in (*learned.train, *learned.selection)}


@pytest.mark.usefixtures("fake_hub")
def test_changed_columns_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, ("MU-NLPC/Calc-mawps", None), [{"problem": "?"}])
    with pytest.raises(UserError, match=r"Calc-mawps .*rows have changed: 'result'"):
        hub_table("mawps", "train")


def test_a_hub_out_of_reach_and_a_set_not_there_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError) as caught:
        load_arithmetic()
    assert "\n" not in str(caught.value)
    assert "'openai/gsm8k' (gsm8k) from the hub: no route" in str(caught.value)
    with pytest.raises(UserError, match="'aqua' is read from local files only"):
        hub_table("aqua", "test")


def test_answers_of_a_test_are_read_as_numbers_and_a_letter_is_refused_with_its_line(
    data: Path,
) -> None:
    write_set(data / "own", "test", [record("Half of 1?", ".5"), record("Ten cubed?", "1e3")])
    task = load_arithmetic(data=data, tests=("own",))
    assert [row["references"] for row in task.test] == [[".5"], ["1e3"]]
    for row, right, wrong in zip(task.test, ("0.5", "1000"), ("5", "3"), strict=True):
        assert score(["number"], f"The answer is {right}.", row["references"]) == {"number": 1.0}
        assert score(["number"], f"The answer is {wrong}.", row["references"]) == {"number": 0.0}
    write_set(data / "own", "test", [record("Half of 1?", ".5"), record("Which?", "B")])
    with pytest.raises(
        UserError, match=r"test\.jsonl\.gz:2: the right answer 'B' .* it has no number"
    ):
        load_arithmetic(data=data, tests=("own",))
    skipped = load_arithmetic(data=data, tests=("own",), on_broken="skip")
    assert len(skipped.test) == 1


def test_rows_of_selection_that_cannot_be_answered_are_counted(data: Path) -> None:
    write_set(data / "gsm8k", "dev", [record("Which?", "B"), record("One and one?", "2")])
    (note,) = [note for note in load_arithmetic(data=data).notes if "right answer" in note]
    assert note.startswith("1 of 2 selection rows: the right answer 'B'")
