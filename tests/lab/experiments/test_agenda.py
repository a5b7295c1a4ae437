"""What a sweep tells those who watch its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ailora.lab.experiments import agenda
from ailora.lab.experiments.agenda import AGENDA, Agenda


def test_time_left_is_by_the_pace_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenda.time, "time", lambda: 130.0)
    made = Agenda(runs=tuple("abcdef"), ended=1, began=100.0)
    assert made.left("abc") == 3
    assert made.seconds_left("abc") == pytest.approx(3 * 30 / 2)  # two ended in 30 s
    assert made.seconds_left("abcx") == made.seconds_left("abc")  # x is not one of its runs
    assert made.seconds_left("a") is None
    assert made.seconds_left("abcdef") == 0


def test_it_comes_back_as_written(tmp_path: Path) -> None:
    made = Agenda(runs=("a", "b"), ended=1, began=5.5)
    made.write(tmp_path)
    assert Agenda.read(tmp_path) == made


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": 3, "ended": 0, "began": 0}', "\udcff"])
def test_anything_else_in_its_place_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / AGENDA).write_text(text, encoding="utf-8", errors="surrogateescape")
    assert Agenda.read(tmp_path) is None
