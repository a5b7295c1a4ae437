"""Records of problems as rows: instruction, perhaps input, the worked solution, the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ailora.lab.tasks.arithmetic.template import WITH_INPUT
from ailora.lab.tasks.generation.pairs import Pair, text_in
from ailora.lab.tasks.tables.read import brief

_CHOICE = re.compile(r"[A-E]")


def to_learn(row: Mapping[str, Any]) -> Pair:
    """A row to train on: the target is the ``output``; the ``answer`` may be missing.

    Raises:
        ValueError: No instruction, no output, or an answer that is none.
    """
    target = text_in(row, "output")
    answer = target if row.get("answer") is None else _answer(row)
    return Pair(source=_source(row), target=target, references=(answer,))


def to_test(row: Mapping[str, Any]) -> Pair:
    """A row to be scored on: the reference is the ``answer``, whatever the output says.

    Raises:
        ValueError: No instruction, or no answer.
    """
    answer = _answer(row)
    return Pair(source=_source(row), target=f"The answer is {answer}.", references=(answer,))


def _source(row: Mapping[str, Any]) -> str:
    instruction, more = text_in(row, "instruction"), row.get("input")
    if more is None or not str(more).strip():
        return instruction
    return WITH_INPUT.format(instruction=instruction, input=text_in(row, "input"))


def _answer(row: Mapping[str, Any]) -> str:
    text = text_in(row, "answer").strip()
    if _CHOICE.fullmatch(text):
        return text
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"column 'answer': expected a number, or a letter from A to E, got {brief(text)}"
        )
    return text
