"""From raw rows to questions, and the rule for broken ones.

A row whose structure is broken stops the reading, with its place: no id, question or context,
lists that do not fit together, an id given twice. An answer that does not stand in its context
where the row says is another matter. Nothing can be learned from it, so that train leaves it out
(and the question with it, if no answer is left) and says how many; selection and test keep it,
for there only its text is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, Value

from ailora.errors import UserError
from ailora.tasks.qa.fields import check_answer, id_of, raw_answers, text_of, whole
from ailora.tasks.qa.read import RawRow
from ailora.tasks.tables.read import brief

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


def checked(rows: Sequence[RawRow]) -> list[Question]:
    """Questions of one split, in order.

    Columns: ``question``, ``context``, ``answers`` (SQuAD's list of objects, or the hub's two
    lists ``text`` and ``answer_start``) or ``answer`` (one text, none where empty) with or without
    ``answer_start``; ``id`` (made of the row number if no row has one) and ``title`` if there are.
    Where no start is given it is the first place of the text in the context.

    Raises:
        UserError: The first row of broken structure, with its place.
    """
    numbered = not any("id" in row.values for row in rows)
    questions, places = [], dict[str, str]()
    for number, row in enumerate(rows, start=1):
        try:
            question = _question(row.values, str(number) if numbered else None)
        except ValueError as error:
            raise UserError(f"{row.place}: {error}") from error
        if question.id in places:
            raise UserError(
                f"{row.place}: id {brief(question.id)} is also at {places[question.id]}; "
                "give each question its own"
            )
        places[question.id] = row.place
        questions.append(question)
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
    """The columns of a `ailora.tasks.QATask`."""
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
