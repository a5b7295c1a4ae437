"""Counts and numbers in words."""

from __future__ import annotations

import math

import pytest

from ailora.lab.experiments.wording import counted, number_words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1000, "1,000 runs")]
)
def test_one_is_not_many(number: int, words: str) -> None:
    assert counted(number, "run") == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1e9, "1e+09"),
        (1000000000, "1e+09"),
        (2.0, "2"),
        (0.002, "0.002"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1.2345678e-5, "1.2345678e-05"),
        (math.nan, "nan"),
    ],
)
def test_a_number_has_one_spelling_and_all_of_its_digits(value: float, words: str) -> None:
    assert number_words(value) == words
