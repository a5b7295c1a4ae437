"""Hub rows become records; the hub itself is not asked."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from ailora.errors import UserError
from ailora.lab.tasks.arithmetic import hub
from ailora.lab.tasks.arithmetic.load import load_arithmetic

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
        hub.hub_table("mawps", "train")


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
        hub.hub_table("aqua", "test")
