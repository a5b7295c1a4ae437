"""The answer in a text is found as LLM-Adapters finds it, and compared as it compares."""

from __future__ import annotations

import math
import random
import re

import pytest

from ailora.lab.tasks.arithmetic.answers import choice_of, choice_score, number_of, number_score
from ailora.lab.tasks.generation.generated import answer_of, score

# By reading the published rule, not by running ours: commas out, last match, none is infinite.
NUMBERS = {
    "": None,
    "no number here": None,
    "-": None,
    ".": None,
    "5": 5.0,
    "5.": 5.0,
    "The answer is 5.": 5.0,
    "1,234": 1234.0,
    "1,234,567.50 dollars": 1234567.5,
    "-5": -5.0,
    "It fell to -5.25 degrees": -5.25,
    "3.50": 3.5,
    "$3.50": 3.5,
    "50%": 50.0,
    "1/2": 2.0,
    "5-3": -3.0,
    "5 - 3": 3.0,
    "1e3": 3.0,
    ".5": 5.0,
    "1.2.3": 3.0,
    "٣": 3.0,
    "x²": None,
    "½": None,
    "The answer is 7. I checked it 2 times.": 2.0,
    "7 apples, 8 pears": 8.0,
    "7,8": 78.0,
    "−4": 4.0,  # a minus sign proper is no hyphen
    "007": 7.0,
    "10:30": 30.0,
    "9" * 400: None,  # the rule has it infinite, which is as wrong
}


def published(text: str) -> float:
    """The rule of LLM-Adapters' evaluation in other words: what is not there is infinite."""
    cleaned = "".join(character for character in text if character != ",")
    last = math.inf
    for match in re.finditer(r"-?\d+(?:\.\d*)?", cleaned):
        last = float(match.group())
    return last


@pytest.mark.parametrize("text", NUMBERS)
def test_the_last_number_counts(text: str) -> None:
    assert number_of(text) == NUMBERS[text]
    assert published(text) == (math.inf if NUMBERS[text] is None else NUMBERS[text])


def test_random_texts_give_what_the_published_rule_gives() -> None:
    draw = random.Random(0)  # noqa: S311
    for _ in range(3000):
        text = "".join(draw.choices("0123456789.,-$% a/", k=draw.randint(0, 12)))
        assert (math.inf if (found := number_of(text)) is None else found) == published(text), text


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("72", "72", True),
        ("72.0009", "72", True),
        ("72.0011", "72", False),
        ("71.9991", "72", True),
        ("-72", "72", False),
        ("1,000", "1000", True),
        ("1.833", "1.833333", True),
        ("", "72", False),
        ("none", "72", False),
        ("", "", False),
        ("5", "", False),
        ("9" * 400, "9" * 400, False),  # beyond a float: infinite
        ("A", "A", False),
    ],
)
def test_a_number_is_right_within_a_thousandth(text: str, reference: str, right: bool) -> None:
    assert number_score(text, [reference]) == float(right)


def test_any_reference_will_do() -> None:
    assert number_score("so 4", ["3", "4"]) == 1.0
    assert number_score("so 5", ["3", "4"]) == 0.0
    assert choice_score("B", ["A", "B"]) == 1.0


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("C", "C"),
        ("the answer is (D)", "D"),
        ("A train; so B", "A"),  # the published rule: any capital from A to E, the first
        ("Because of that, C", "B"),
        ("F or G", None),
        ("abcde", None),
        ("", None),
        ("Á, then E", "E"),
    ],
)
def test_the_first_capital_from_a_to_e_is_the_choice(text: str, choice: str | None) -> None:
    assert choice_of(text) == choice
    for letter in "ABCDE":
        assert choice_score(text, [letter]) == float(letter == choice)


def test_both_are_scores_by_name_with_the_answer_they_saw() -> None:
    assert score(("number", "choice"), "The answer is 3.", ["3"]) == {"number": 1.0, "choice": 0.0}
    assert answer_of("number", "so 1,200 it is") == 1200.0
    assert answer_of("choice", "so D") == "D"
    assert answer_of("number", "so") is None
