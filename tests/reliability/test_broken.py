"""Each promise of the list has tests that are there, and a broken build that they catch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.lines import read_lines
from tests.reliability.broken import why_not_caught
from tests.reliability.promises import ROOT, Promise, holds, missing, read_promises

PROMISES = read_promises()
by_name = pytest.mark.parametrize("promise", PROMISES, ids=lambda one: one.name)


@by_name
def test_its_tests_are_there_and_its_broken_build_still_applies(promise: Promise) -> None:
    assert missing([*promise.tests, *promise.broken.by]) == []
    for test in promise.broken.by:
        assert any(holds(one, test) for one in promise.tests)
    broken = promise.broken
    text = (ROOT / broken.file).read_text(encoding="utf-8")
    assert broken.applied(text) != text


def test_every_promise_has_a_name_and_a_sentence_of_its_own() -> None:
    assert len(PROMISES) >= 25
    for values in ([one.name for one in PROMISES], [one.says for one in PROMISES]):
        assert len(set(values)) == len(PROMISES)
    assert all(one.says.endswith(".") and one.broken.what for one in PROMISES)


def test_a_test_that_is_not_there_is_seen() -> None:
    here = "tests/reliability/test_broken.py::test_a_test_that_is_not_there_is_seen"
    gone = ["tests/test_files.py::test_nothing", "tests/nowhere.py"]
    assert missing([here, f"{here}[x]", "tests/test_files.py", *gone]) == gone


# --- Broken builds ----------------------------------------------------------------------------


def test_a_defect_whose_place_is_gone_or_not_the_only_one_is_no_build() -> None:
    broken = replace(PROMISES[0].broken, old="x = 1", new="x = 2")
    assert broken.applied("x = 1\n") == "x = 2\n"
    for text in ("y = 1\n", "x = 1\nx = 1\n"):
        with pytest.raises(ValueError, match="places for the broken build"):
            broken.applied(text)
    with pytest.raises(SyntaxError):
        replace(broken, new="x = (").applied("x = 1\n")


def a_case(name: str, outcome: str = "passed") -> dict[str, Any]:
    return {"case": name, "outcome": outcome, "day": "2026-01-02"}


def a_failure(**more: Any) -> dict[str, Any]:
    line = {"case": "a.py::x", "outcome": "failed", "when": "call", "assertion": True}
    return {**line, "said": "AssertionError: 1 != 2", **more}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "did not run"),
        ([a_case("a.py::x")], "did not notice it"),
        ([a_failure(assertion=False, said="KeyError: 'x'")], "for another reason"),
        ([a_failure(when="setup")], "for another reason"),
        ([a_failure(said="AssertionError: ImportError: no module")], "for another reason"),
        ([a_case("a.py::y"), a_failure()], ""),
    ],
)
def test_only_an_assertion_of_the_test_itself_counts(lines: list[Any], why: str) -> None:
    found = why_not_caught(lines, PROMISES[0].broken)
    assert why in found
    assert bool(found) is bool(why)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("broken")
    command = [sys.executable, "-m", "tests.reliability.broken", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    lines = read_lines(out / "verdicts.jsonl")
    assert lines, done.stdout + done.stderr
    return {line["promise"]: line["why"] for line in lines}


@pytest.mark.slow
def test_without_a_defect_the_tests_of_broken_builds_pass(verdicts: dict[str, str]) -> None:
    assert verdicts[""] == ""


@pytest.mark.slow
@by_name
def test_its_broken_build_is_caught(promise: Promise, verdicts: dict[str, str]) -> None:
    assert verdicts[promise.name] == ""
