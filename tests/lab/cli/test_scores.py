"""Scores in the terminal, whole even where there are many."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from ailora.lab.cli.scores import score_table

MANY = [f"exact_match_of_the_kind_of_question_number_{number}" for number in range(9)]


def shown(scores: dict[str, dict[str, float]], **options: Any) -> str:
    console = Console(width=80, file=StringIO(), record=True)
    console.print(score_table("ailora on [task]", scores, **options))
    return console.export_text()


def test_many_metrics_fit_a_terminal_uncut() -> None:
    text = shown({"selection": dict.fromkeys(MANY, 0.25), "test": dict.fromkeys(MANY, 0.5)})
    for name in MANY:
        (line,) = [line for line in text.splitlines() if name in line]
        assert line.split()[-4:] == ["0.2500", "│", "0.5000", "│"]
    assert "[task]" in text


def test_a_metric_of_one_split_stays_in_its_column() -> None:
    text = shown({"selection": {"f1": 0.1, "threshold": -5.0}, "test": {"f1": 0.2, "at it": 0.3}},
                 rows={"selection": 7, "test": 9})  # fmt: skip
    lines = {line.split("│")[1].strip(): line.split("│")[2:4] for line in text.splitlines()[4:-1]}
    assert {name: [cell.strip() for cell in cells] for name, cells in lines.items()} == {
        "rows": ["7", "9"],
        "f1": ["0.1000", "0.2000"],
        "threshold": ["-5.0000", ""],
        "at it": ["", "0.3000"],
    }
