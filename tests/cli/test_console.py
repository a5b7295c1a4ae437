"""What a command shows of warnings: each once, however many runs give it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ailora.cli.console import quiet_libraries

LOGGER = logging.getLogger("ailora")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = list(LOGGER.handlers)
    yield
    LOGGER.handlers[:] = before


def test_a_warning_is_shown_once_by_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        quiet_libraries()
        quiet_libraries()  # by a command and by what it calls
        for rows in (100, 120, 100, 120, 100):
            LOGGER.getChild("lab").warning("%d rows lose tokens", rows)
        assert capsys.readouterr().err.split() == [
            *("WARNING", "100", "rows", "lose", "tokens"),
            *("WARNING", "120", "rows", "lose", "tokens"),
        ]
