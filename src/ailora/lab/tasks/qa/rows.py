"""From rows to questions, and two kinds of broken ones.

A row whose structure is broken is reported: no id, question or context, lists that do not fit
together, an id given twice. An answer that does not stand in its context where the row says is
another matter, since sets in common use have some. Nothing can be learned from it, so that train
leaves it out (and the question with it, if no answer is left) and says how many; selection and
test keep it, for there only its text is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, Value

from ailora.errors import UserError
from ailora.lab.tasks.qa.fields import check_answer, id_of, raw_answers, text_of, whole
from ailora.lab.tasks.tables.broken import Report, at
from ailora.lab.tasks.tables.read import Table, brief

FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "context": Value("string"),
        "answers": {"text": [Value("string")], "answer_start": [Value("int64")]},
    }
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question that passed the checks.

    Attributes:
        id, question, context: Not blank.
        title: Of the article that the context is from; empty where the file says none.
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


def is_placed(context: str, text: str, start: int) -> bool:
    """Whether ``text`` stands in ``context`` at character ``start``."""
    return start >= 0 and context.startswith(text, start)


def looks_like_questions(columns: Iterable[str]) -> bool:
    """Whether a table with these columns holds questions on contexts."""
    names = set(columns)
    return {"question", "context"} <= names and bool({"answers", "answer"} & names)


def checked(table: Table, report: Report, *, strict: bool = False) -> list[Question]:
    """Questions of one split, in order.

    Columns: ``question``, ``context``, ``answers`` (SQuAD's list of objects, or the hub's two
    lists ``text`` and ``answer_start``) or ``answer`` (one text, none where empty) with or without
    ``answer_start``; ``id`` (made of the row number if no row has one) and ``title`` if there are.
    Where no start is given it is the first place of the text in the context.

    Args:
        table: The rows.
        report: Told of each row of broken structure; unless it raises, the row is left out.
        strict: Whether a row with an answer that does not stand at its start is broken too.

    Raises:
        UserError: No row is left. And what ``report`` raises.
    """
    numbered = not any("id" in row for _, row in table.rows)
    questions, places = [], dict[str, str]()
    for number, (line, row) in enumerate(table.rows, start=1):
        try:
            question = _question(row, str(number) if numbered else None)
            _check_new(question.id, places)
            if strict:
                _check_placed(question)
        except ValueError as error:
            report(table.source, line, str(error))
            continue
        places[question.id] = at(table.source, line)
        questions.append(question)
    if not questions:
        raise UserError(f"{table.source} has no rows that can be used: an empty split")
    return questions


def learnable(questions: Sequence[Question]) -> tuple[list[Question], tuple[str, ...]]:
    """Leave out answers that do not stand at their start; say how many, if any.

    Raises:
        UserError: No question is left.
    """
    kept, answers, dropped = [], 0, 0
    for question in questions:
        placed = question.placed
        answers += len(placed) - sum(placed)
        if placed and not any(placed):
            dropped += 1
            continue
        kept.append(question if all(placed) else _with_placed(question))
    if not kept:
        raise UserError(
            f"none of the {len(questions)} training questions has an answer that stands in its "
            "context at answer_start (counted in characters from 0); mend the file"
        )
    if not answers:
        return kept, ()
    note = f"train: {answers} answers not in their context at answer_start left out"
    return kept, (f"{note}, and {dropped} questions that have no other",)


def to_dataset(questions: Sequence[Question]) -> Dataset:
    """The columns of a `ailora.lab.tasks.QATask`."""
    return Dataset.from_dict(
        {
            "id": [row.id for row in questions],
            "question": [row.question for row in questions],
            "context": [row.context for row in questions],
            "answers": [
                {"text": list(row.texts), "answer_start": list(row.starts)} for row in questions
            ],
        },
        features=FEATURES,
    )


def _check_new(name: str, places: Mapping[str, str]) -> None:
    if name in places:
        raise ValueError(f"id {brief(name)} is also at {places[name]}; give each question its own")


def _check_placed(question: Question) -> None:
    for text, placed in zip(question.texts, question.placed, strict=True):
        if not placed:
            raise ValueError(f"the answer {brief(text)} is not in the context at answer_start")


def _with_placed(question: Question) -> Question:
    answers = zip(question.texts, question.starts, question.placed, strict=True)
    left = [(text, start) for text, start, placed in answers if placed]
    return Question(
        id=question.id,
        title=question.title,
        question=question.question,
        context=question.context,
        texts=tuple(text for text, _ in left),
        starts=tuple(start for _, start in left),
    )


def _question(values: Mapping[str, Any], number: str | None) -> Question:
    context = text_of(values, "context")
    question = text_of(values, "question").strip()
    pairs = raw_answers(values)
    if values.get("is_impossible") is True and pairs:
        raise ValueError("is_impossible is true but there are answers; mend the row")
    texts, starts = [], []
    for text, start in pairs:
        check_answer(text)
        texts.append(text)
        starts.append(context.find(text) if start is None else whole(start))
    title = values.get("title")
    return Question(
        id=id_of(values) if number is None else number,
        title=title if isinstance(title, str) else "",
        question=question,
        context=context,
        texts=tuple(texts),
        starts=tuple(starts),
    )
