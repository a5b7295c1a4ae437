"""docs/reliability.md is of today's list, and says of every promise that it held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.reliability.page import PAGE, not_held, read_summary, render, summarise
from tests.reliability.promises import Promise, read_promises

PROMISES = read_promises()


def test_the_page_is_of_this_list_and_of_the_committed_figures() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(PROMISES, read_summary())


@pytest.mark.parametrize("promise", PROMISES, ids=lambda one: one.name)
def test_the_figures_are_of_these_tests_and_every_promise_held(promise: Promise) -> None:
    found = read_summary()["promises"][promise.name]
    assert found["tests"] == list(promise.tests), "run python -m tests.reliability again"
    assert found["broken_build"] == promise.broken.what
    assert found["passed"] > 0
    assert found["failed"] == 0
    assert found["caught"]


def a_case(name: str, outcome: str = "passed") -> dict[str, Any]:
    return {"case": name, "outcome": outcome, "day": "2026-01-02"}


def test_cases_are_counted_for_the_promises_whose_tests_they_are() -> None:
    one = replace(PROMISES[0], name="one", tests=("a.py::test_x", "b.py"))
    other = replace(PROMISES[0], name="other", tests=("a.py::test_xy",))
    cases = [
        a_case("a.py::test_x[1]"),
        a_case("a.py::test_x[2]", "failed"),
        a_case("b.py::test_z", "skipped"),
        a_case("a.py::test_xy"),
    ]
    found = summarise([one, other], cases, [{"promise": "one", "why": ""}])["promises"]
    assert [found["one"][key] for key in ("passed", "failed", "skipped")] == [1, 1, 1]
    assert [found["other"][key] for key in ("passed", "failed", "skipped")] == [1, 0, 0]
    assert (found["one"]["caught"], found["other"]["caught"]) == (True, False)


@pytest.mark.parametrize("change", [{"failed": 1}, {"passed": 0}, {"caught": False}])
def test_a_promise_that_did_not_hold_is_named(change: dict[str, Any]) -> None:
    one = {"passed": 3, "failed": 0, "skipped": 1, "caught": True}
    assert not_held({"promises": {"fine": one}}) == []
    assert not_held({"promises": {"fine": one, "bad": {**one, **change}}}) == ["bad"]
