"""A name that leads nowhere is answered with the nearest one that leads somewhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ailora.errors import UserError
from ailora.lab.tasks import GenerationTask, QATask, Task, TextTask, load_task, load_text_task
from ailora.lab.tasks.generation.instructions import load_instructions
from ailora.lab.tasks.generation.summaries import load_summaries
from ailora.lab.tasks.qa import load_squad
from ailora.lab.tasks.registry import FILE_KINDS, TASKS, canonical, loader_of


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


def test_a_misspelt_task_file_or_folder_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/cola").mkdir(parents=True)
    Path("reviews.csv").write_text("text,label\n")
    near = {"movie": "movies", "review.csv": "reviews.csv", "data/colla": "data/cola"}
    for wrong, right in near.items():
        with pytest.raises(UserError, match=f"'{wrong}': did you mean '{right}'"):
            load_task(wrong)


def test_a_missing_file_is_never_sought_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("some/where.csv", "/no/where", "./a/b", "nothing"):
        with pytest.raises(UserError, match="no task, file or folder is called"):
            load_task(name)


def test_a_local_folder_goes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("glue/cola").mkdir(parents=True)
    rows = "".join(f"s{n},{n % 2}\n" for n in range(20))
    Path("glue/cola/train.csv").write_text(f"text,label\n{rows}")
    assert load_task("glue/cola").name == "cola"


@pytest.mark.parametrize("name", ["glue/cola", "nyu-mll/glue/cola"])
def test_a_hub_set_that_the_paper_uses_is_scored_as_the_paper_scores_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = datasets.Dataset.from_dict(
        {"sentence": [f"s{n}" for n in range(40)], "label": [n % 2 for n in range(40)]}
    ).cast_column("label", datasets.ClassLabel(names=["unacceptable", "acceptable"]))
    parts = datasets.DatasetDict(train=rows, validation=rows.take(10))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: parts)
    task = load_task(name)
    assert (task.name, task.metrics[0]) == ("cola", "mcc")


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("a.csv", "question,context,answers,id\n", QATask),
        ("a.jsonl", '{"id": "1", "question": "q", "context": "c", "answers": {}}\n', QATask),
        ("a.json", '{"version": "1.1", "data": []}', QATask),
        ("a.tsv", "document\tsummary\n", GenerationTask),
        ("a.json", '[{"instruction": "i", "output": "o"}]', GenerationTask),
        ("a.csv", "text,label\n", TextTask),
        ("a.jsonl", "not json\n", TextTask),
    ],
)
def test_the_columns_of_a_file_tell_its_kind(
    file: str, text: str, kind: type[Task], tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text)
    loader = loader_of(tmp_path / file)
    assert kind.__name__ == str(inspect.signature(loader).return_annotation)


@pytest.mark.parametrize(
    ("columns", "loader"),
    [
        (("id", "question", "context", "answers"), load_squad),
        (("answer", "context", "question"), load_squad),
        (("question", "sentence", "label"), load_text_task),
        (("question", "context"), load_text_task),
        (("id", "document", "summary"), load_summaries),
        (("document", "references"), load_summaries),
        (("document", "label"), load_text_task),
        (("text", "summary"), load_text_task),
        (("instruction", "input", "output"), load_instructions),
        (("output", "instruction"), load_instructions),
        (("instruction", "label"), load_text_task),
        ((), load_text_task),
    ],
)
def test_the_first_kind_whose_columns_are_there_counts(
    columns: tuple[str, ...], loader: Callable[..., Task]
) -> None:
    assert next(kind.load for kind in FILE_KINDS if kind.fits(columns)) is loader


@pytest.mark.parametrize("name", TASKS)
def test_the_table_says_which_kind_each_named_task_is(name: str) -> None:
    returned = inspect.signature(TASKS[name].load).return_annotation
    assert TASKS[name].kind.__name__ == returned


def test_a_hub_name_leads_to_one_named_task_and_its_own_name_to_itself() -> None:
    hub = [known for task in TASKS.values() for known in task.hub]
    assert len(hub) == len(set(hub))
    assert canonical("nyu-mll/glue/rte") == "rte"
    assert canonical("rte") == "rte"
    assert canonical("owner/set") == "owner/set"


def test_a_task_may_be_a_python_file(tmp_path: Path) -> None:
    rows = "".join(f"s{n},{n % 2}\n" for n in range(20))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}")
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from ailora.lab.tasks import load_text_task\n"
        "def load(**options):\n"
        "    return load_text_task(Path(__file__).parent / 'rows.csv', **options)\n"
    )
    task = load_task(tmp_path / "mine.py", limit=10)
    assert (task.name, task.train.num_rows) == ("rows", 10)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("x = 1", "has no function load"), ("def load(**o): return 3", "returned a int, not a task")],
)
def test_a_python_file_without_a_task_is_refused(code: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=reason):
        load_task(tmp_path / "mine.py")


def test_options_that_a_task_has_no_use_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task 'squad_v1' takes no label, regression, text"):
        load_task("squad_v1", data=tmp_path, regression=True, text=("a",), label="label")
    with pytest.raises(UserError, match="task 'movies' takes no data folder"):
        load_task("movies", data=tmp_path)
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="no task of the paper"):
        load_task(tmp_path / "a.csv", data=tmp_path)
