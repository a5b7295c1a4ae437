"""Which method is which must be seen without colours too."""

from __future__ import annotations

from itertools import combinations

from ailora.lab.methods.table import METHODS, STARTS
from ailora.lab.report.figures.drawing import ROLE_LOOKS, look_of


def test_any_two_methods_differ_in_marker_and_in_colour_or_line() -> None:
    for one, other in combinations(map(look_of, METHODS), 2):
        assert one.marker != other.marker
        assert (one.color, one.line) != (other.color, other.line)


def test_the_starts_that_stand_side_by_side_everywhere_have_a_colour_each() -> None:
    assert len({look_of(method).color for method in (*STARTS, "full")}) == 6


def test_every_role_has_its_own_colour_and_marker() -> None:
    for part in zip(*ROLE_LOOKS.values(), strict=True):
        assert len(set(part)) == len(ROLE_LOOKS)
