"""A name that leads nowhere is answered with the nearest one that leads somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from ailora.errors import UserError
from ailora.tasks import load_task


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
