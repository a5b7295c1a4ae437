"""The fields of one row; each raises a ValueError with the reason where one is broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ailora.lab.tasks.tables.read import brief


def text_of(values: Mapping[str, Any], name: str) -> str:
    """A column's text, which must not be blank."""
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name!r}: expected text, got {brief(value)}; fill it in or drop the row")
    _check_encodable(name, value)
    return value


def _check_encodable(name: str, value: str) -> None:
    try:
        value.encode("utf-8")  # JSON can hold half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name!r}: half a surrogate pair at character {error.start}; mend the row"
        ) from error


def id_of(values: Mapping[str, Any]) -> str:
    """The row's id; a number counts as its digits."""
    value = values.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(values, "id")


def check_answer(text: Any) -> None:
    """Refuse an answer that is not a text."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"an answer is {brief(text)}; expected text (a question without an answer has no "
            "answers at all)"
        )
    _check_encodable("answers", text)


def whole(start: Any) -> int:
    """An answer's start as a number of characters."""
    try:
        value = int(start)
    except (TypeError, ValueError, OverflowError):
        value = -1
    if value < 0 or isinstance(start, bool | float):
        raise ValueError(
            f"answer_start is {brief(start)}; expected the number of characters before the answer"
        )
    return value


def raw_answers(values: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Texts with their starts, None where there is no word of a start."""
    if "answers" not in values:
        return _own_answer(values)
    found = values["answers"]
    if isinstance(found, Mapping):
        return _two_lists(found)
    if isinstance(found, list) and all(isinstance(answer, Mapping) for answer in found):
        return [(answer.get("text"), answer.get("answer_start")) for answer in found]
    raise ValueError(
        f"'answers' is {brief(found)}; expected text and answer_start lists, or a list of objects"
    )


def _own_answer(values: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    if "answer" not in values:
        raise ValueError("no 'answers' and no 'answer'; an unanswerable question has an empty one")
    text, start = values["answer"], values.get("answer_start")
    if text is None or text == "":
        return []
    return [(text, None if start == "" else start)]


def _two_lists(found: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    texts, starts = found.get("text"), found.get("answer_start")
    if not isinstance(texts, list):
        raise ValueError(f"answers.text is {brief(texts)}; expected a list")
    if starts is None:
        starts = [None] * len(texts)
    if not isinstance(starts, list) or len(starts) != len(texts):
        raise ValueError(
            f"answers has {len(texts)} texts but answer_start {brief(starts)}; give one for each"
        )
    return list(zip(texts, starts, strict=True))
