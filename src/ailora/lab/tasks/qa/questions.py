"""From rows to questions, and two kinds of broken ones.

A row whose structure is broken is reported: no id, question or context, lists that do not fit
together, an id given twice. An answer that does not stand in its context where the row says is
another matter, since sets in common use have some. Nothing can be learned from it, so that train
leaves it out (and the question with it, if no answer is left) and says how many; selection and
test keep it, for there only its text is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, Features, Value

from ailora.errors import UserError
from ailora.lab.tasks.tables.stored import dataset_of
from ailora.lab.tasks.tables.table import (
    PLACE,
    Place,
    Report,
    Row,
    Rows,
    Table,
    brief,
    is_blank,
    text_in,
    usable_rows,
)

_FEATURES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "question": Value("string"),
        "context": Value("string"),
        "answers": {"text": [Value("string")], "answer_start": [Value("int64")]},
        PLACE: Value("string"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question that passed the checks.

    Attributes:
        id, question, context: Texts, not blank.
        title: Title of the article that the context is from; empty where the file says none.
        texts, starts: The answers, and where each begins in the context (characters; -1 where no
            place was given and the text is nowhere in the context). Both empty: no answer.
    """

    id: str
    title: str
    question: str
    context: str
    texts: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def placed(self) -> tuple[bool, ...]:
        """For each answer, whether it stands in the context at its start."""
        pairs = zip(self.texts, self.starts, strict=True)
        return tuple(is_placed(self.context, text, start) for text, start in pairs)


Placed = tuple[str, Question]  # file and line of a question, and the question


def questions_in(table: Table, report: Report, *, strict: bool = False) -> Iterator[Placed]:
    """Yield the questions of one split, in order, each with its place.

    Columns: ``question``, ``context``, ``answers`` (SQuAD's list of objects, the hub's two lists
    ``text`` and ``answer_start``, or a list of texts) or ``answer`` (one text, none where empty)
    with or without ``answer_start``; ``id`` (made of the row number if no row has one) and
    ``title`` if there are. Where no start is given it is the first place of the text in the
    context.

    Args:
        table: The rows.
        report: Told of each row of broken structure; unless it raises, the row is left out.
        strict: Whether a row with an answer that does not stand at its start is broken too.

    Raises:
        UserError: No row is left. And what ``report`` raises.
    """

    def question(row: Row) -> Question:
        found = _question(row)
        if strict:
            _check_placed(found)
        return found

    return usable_rows(_with_ids(table), question, report, identity=lambda found: found.id)


@dataclass
class Learnable:
    """Leaves out training answers that do not stand at their start, and counts them.

    Attributes:
        questions, answers, dropped: Questions that were looked at, answers left out, and questions
            left out since they have no other.
        unanswerable: Whether any question had no answers to begin with.
    """

    questions: int = 0
    answers: int = 0
    dropped: int = 0
    unanswerable: bool = False

    def of(self, found: Iterable[Placed]) -> Iterator[Placed]:
        """Yield what can be learned.

        Raises:
            UserError: In the end, there was no question.
        """
        for place, question in found:
            self.questions += 1
            self.unanswerable = self.unanswerable or not question.texts
            placed = question.placed
            self.answers += len(placed) - sum(placed)
            if placed and not any(placed):
                self.dropped += 1
            else:
                yield place, question if all(placed) else _with_placed(question)
        if self.dropped == self.questions:
            raise UserError(
                f"none of the {self.questions} training questions has an answer that stands in its "
                "context at answer_start (counted in characters from 0); mend the file"
            )

    def notes(self) -> tuple[str, ...]:
        """Say how many were left out, if any."""
        if not self.answers:
            return ()
        note = f"train: {self.answers} answers not in their context at answer_start left out"
        return (f"{note}, and {self.dropped} questions that have no other",)


def to_dataset(questions: Iterable[Placed]) -> Dataset:
    """Return the columns of a `ailora.lab.tasks.QATask`, ``title``, and the rows' places."""
    rows = (
        (
            *(row.id, row.title, row.question, row.context),
            {"text": row.texts, "answer_start": row.starts},
            place,
        )
        for place, row in questions
    )
    return dataset_of(rows, tuple(_FEATURES), _FEATURES.arrow_schema)


def is_placed(context: str, text: str, start: int) -> bool:
    """Whether ``text`` stands in ``context`` at character ``start``."""
    return start >= 0 and context.startswith(text, start)


def _with_ids(table: Table) -> Table:
    """The table, with the number of each row as its id if no row has one."""
    if any("id" in row for _, row in table.rows):
        return table

    def rows() -> Iterator[tuple[Place, Row]]:
        for number, (place, row) in enumerate(table.rows, start=1):
            yield place, {**row, "id": str(number)}

    return replace(table, rows=Rows(rows, len(table.rows)))


def _question(row: Row) -> Question:
    context = text_in(row, "context", numbers=False)
    question = text_in(row, "question", numbers=False).strip()
    pairs = _raw_answers(row)
    if row.get("is_impossible") is True and pairs:
        raise ValueError("is_impossible is true but there are answers; mend the row")
    texts, starts = [], []
    for answer, start in pairs:
        text = _answer(answer)
        texts.append(text)
        starts.append(context.find(text) if start is None else _start(start))
    title = row.get("title")
    return Question(
        id=_id(row),
        title=title if isinstance(title, str) else "",
        question=question,
        context=context,
        texts=tuple(texts),
        starts=tuple(starts),
    )


def _check_placed(question: Question) -> None:
    for text, placed in zip(question.texts, question.placed, strict=True):
        if not placed:
            raise ValueError(f"the answer {brief(text)} is not in the context at answer_start")


def _with_placed(question: Question) -> Question:
    answers = zip(question.texts, question.starts, question.placed, strict=True)
    left = [(text, start) for text, start, placed in answers if placed]
    texts, starts = zip(*left, strict=True)
    return replace(question, texts=texts, starts=starts)


def _id(row: Row) -> str:
    """The row's id; a whole number counts as its digits."""
    value = row.get("id")
    whole = isinstance(value, int) and not isinstance(value, bool)
    return text_in(row, "id", numbers=whole)


def _answer(answer: Any) -> str:
    """An answer as text; a number as it is written."""
    number = isinstance(answer, int | float) and not isinstance(answer, bool)
    if not number and (not isinstance(answer, str) or is_blank(answer)):
        raise ValueError(
            f"an answer is {brief(answer)}; expected text (a question without an answer has no "
            "answers at all)"
        )
    return text_in({"answers": answer}, "answers")


def _start(start: Any) -> int:
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


def _raw_answers(row: Row) -> list[tuple[Any, Any]]:
    """Texts with their starts, None where there is no word of a start."""
    if "answers" not in row:
        return _single_answer(row)
    found = row["answers"]
    if isinstance(found, Mapping):
        return _two_lists(found)
    if isinstance(found, list) and all(isinstance(answer, Mapping) for answer in found):
        return [(answer.get("text"), answer.get("answer_start")) for answer in found]
    if isinstance(found, list) and all(isinstance(answer, str) for answer in found):
        return [(answer, None) for answer in found]
    raise ValueError(
        f"'answers' is {brief(found)}; expected text and answer_start lists, or a list of objects"
    )


def _single_answer(row: Row) -> list[tuple[Any, Any]]:
    if "answer" not in row:
        raise ValueError("no 'answers' and no 'answer'; an unanswerable question has an empty one")
    text, start = row["answer"], row.get("answer_start")
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
