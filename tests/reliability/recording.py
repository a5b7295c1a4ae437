"""A pytest plugin that writes how each case ended, and of which sources: one JSON line each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.lines import add_line, read_lines
from tests.reliability.promises import ROOT

# What an assertion raises, and ``pytest.raises`` where nothing was raised.
ASSERTIONS = (AssertionError, pytest.fail.Exception)


def state_of(case: str) -> str:
    """A hash of the sources and of the file that a case is in: what its result is of."""
    return _state_of_file(case.partition("::")[0])


@cache
def _state_of_file(test: str) -> str:
    return hashlib.sha256(_sources() + (ROOT / test).read_bytes()).hexdigest()[:16]


@cache
def _sources() -> bytes:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "ailora").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.read_bytes())
    return digest.digest()


def of_today(record: Path) -> list[dict[str, Any]]:
    """The lines of a record whose sources and tests are today's; the last of each case."""
    found = {
        line["case"]: line
        for line in read_lines(record)
        if (ROOT / line["case"].partition("::")[0]).is_file()
        and line["of"] == state_of(line["case"])
    }
    return list(found.values())


class Recorder:
    """Cases that the record has, of today's sources, are not run again.

    Each line has the case, what it is of (`state_of`), its outcome ("passed", "failed", "skipped"),
    its seconds, the day, and of a failure what was raised, whether that was an assertion, and where
    ("call" is the test itself).

    Args:
        record: The file.
        day: The day, for the lines.
    """

    def __init__(self, record: Path, day: str = "") -> None:
        self.record, self.day = record, day

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        done = {line["case"] for line in of_today(self.record)}
        items[:] = [item for item in items if item.nodeid not in done]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        report: pytest.TestReport = yield  # type: ignore[misc,assignment]
        if report.when == "call" or report.outcome != "passed":
            line = {"case": item.nodeid, "of": state_of(item.nodeid), "day": self.day}
            line |= {"outcome": report.outcome, "when": report.when}
            line |= {"seconds": round(report.duration, 2)}
            if report.outcome == "failed" and call.excinfo is not None:
                line["assertion"] = issubclass(call.excinfo.type, ASSERTIONS)
                said = f"{call.excinfo.type.__name__}: {call.excinfo.value}"
                line["said"] = said if len(said) < 4000 else f"{said[:2000]} ... {said[-2000:]}"
            add_line(self.record, line)
        return report  # type: ignore[return-value]
