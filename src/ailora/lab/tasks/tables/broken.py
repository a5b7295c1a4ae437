"""Rows that cannot be used: the first one stops the reading, or all are left out and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from ailora.errors import UserError

OnBroken = Literal["stop", "skip"]
Place = int | str  # the line, from 1; or where in a document that is one value
# Told of each broken row: file or hub split, place, what is wrong. It may raise.
Report = Callable[[str, Place, str], None]


def stop(source: str, place: Place, reason: str) -> None:
    """Raise the UserError of a broken row: where it is and what is wrong with it."""
    raise UserError(f"{at(source, place)}: {reason}")


def at(source: str, place: Place) -> str:
    """A row's place, for a message: ``file:line``, or ``file: place``."""
    return f"{source}:{place}" if isinstance(place, int) else f"{source}: {place}"


def rule_for(on_broken: OnBroken | None, *, local: bool) -> OnBroken:
    """Return the rule asked for; if none is, local files stop and hub data are skipped over.

    A local file can be mended, so nothing is lost in silence. A hub data set cannot: official
    ones have broken rows too (two questions of QQP's train split are empty, as
    huggingface/datasets issue 277 found), and those must not keep anybody from using the rest.

    Raises:
        UserError: Neither of the two rules.
    """
    if on_broken is None:
        return "stop" if local else "skip"
    if on_broken not in get_args(OnBroken):
        raise UserError(f"on_broken={on_broken!r}: must be stop or skip")
    return on_broken


class BrokenRows:
    """Takes the reports of one load and follows its rule."""

    def __init__(self, rule: OnBroken) -> None:
        self._rule = rule
        self._count: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def report(self, source: str, place: Place, reason: str) -> None:
        """Count a row that is left out.

        Raises:
            UserError: The rule is to stop.
        """
        if self._rule == "stop":
            stop(source, place, f'{reason} (or leave such rows out: on_broken="skip")')
        self._count[source] = self._count.get(source, 0) + 1
        self._first.setdefault(source, f"{at(source, place)}: {reason}")

    def notes(self) -> tuple[str, ...]:
        """Say for each source how many rows were left out, and where and why the first was."""
        return tuple(
            f"{count} broken {'row' if count == 1 else 'rows'} left out; "
            f"the first is {self._first[source]}"
            for source, count in self._count.items()
        )
