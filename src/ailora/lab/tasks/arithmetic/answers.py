"""The answer in a generated text, by LLM-Adapters' rules, and whether it is the right one.

The rules are those of the LLM-Adapters evaluation (Hu et al., 2023), which the AILoRA paper
follows for arithmetic; see ``number_of`` and ``choice_of`` for what they make of hard cases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

TOLERANCE = 1e-3
_NUMBER = re.compile(r"-?\d+\.?\d*")
_CHOICE = re.compile(r"[A-E]")


def number_of(text: str) -> float | None:
    r"""Return the last number of a text, None where there is none.

    Commas are dropped first ("1,234" is 1234; but "3, 4" is two numbers still, by its space), then
    the last match of ``-?\d+\.?\d*`` counts. So a full stop after a number does no harm, "$" and
    "%" are passed over, "1/2" is 2, "5-3" is -3, "1e3" is 3, and digits of any script count. What
    is too large for a float counts as no number.
    """
    found = _NUMBER.findall(text.replace(",", ""))
    number = float(found[-1]) if found else math.nan
    return number if math.isfinite(number) else None


def choice_of(text: str) -> str | None:
    """Return the first capital letter from A to E anywhere in a text, None where there is none.

    This is AQuA's rule, and a crude one: "A train leaves ..." answers A, "Because" answers B.
    """
    found = _CHOICE.search(text)
    return found.group() if found else None


def number_score(text: str, references: Sequence[str]) -> float:
    """1.0 if the text's number is within 1e-3 of that of any reference, else 0.0.

    A text without a number is wrong, as is any against a reference without one.
    """
    answer = number_of(text)
    if answer is None:
        return 0.0
    known = [number for number in map(number_of, references) if number is not None]
    return float(any(abs(answer - number) <= TOLERANCE for number in known))


def choice_score(text: str, references: Sequence[str]) -> float:
    """1.0 if the text's choice is that of any reference, else 0.0; no choice is wrong."""
    answer = choice_of(text)
    return float(answer is not None and answer in map(choice_of, references))
