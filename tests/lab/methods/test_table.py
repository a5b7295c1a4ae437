"""The table of methods: every row is whole, and told from the others."""

from __future__ import annotations

import itertools

import pytest

from ailora.errors import UserError
from ailora.lab.methods.table import METHODS, STARTS, Method, method_named
from tests.lab.methods.models import USABLE


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_row_is_whole(method: Method) -> None:
    assert METHODS[method.name] is method
    assert method.label
    assert len(method.note.split()) > 2
    assert method.sized_as in ("", *METHODS)
    if method.name in USABLE:
        assert callable(method.build)


def test_any_two_methods_look_different_in_two_ways() -> None:
    for one, other in itertools.combinations(METHODS.values(), 2):
        assert one.label != other.label
        same = sum(a == b for a, b in zip(one.look, other.look, strict=True))
        assert same < 2, (one.name, other.name)


def test_what_differs_in_its_start_alone_is_in_the_table() -> None:
    assert set(STARTS) <= METHODS.keys()


def test_the_nearest_name_is_said() -> None:
    with pytest.raises(UserError, match="no method is called 'ailoar': did you mean 'ailora'"):
        method_named("ailoar")
