"""Scores of generated texts by name, each in [0, 1] for a text against its references.

How an answer is found in a text for ``number`` and ``choice`` follows the rules of the LLM-Adapters
evaluation (Hu et al., 2023), as the AILoRA paper does for arithmetic; see `number_of` and
`choice_of` for what they make of hard cases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ailora.errors import UserError, instead
from ailora.lab.tasks.tables.table import brief

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_TOLERANCE = 1e-3
_NUMBER = re.compile(r"-?\d+\.?\d*")
_CHOICE = re.compile(r"[A-E]")


def exact_score(text: str, references: Sequence[str]) -> float:
    """1.0 if the text is one of the references but for white space."""
    return float(_trimmed(text) in map(_trimmed, references))


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
    return float(any(abs(answer - number) <= _TOLERANCE for number in known))


def choice_score(text: str, references: Sequence[str]) -> float:
    """1.0 if the text's choice is that of any reference, else 0.0; no choice is wrong."""
    answer = choice_of(text)
    return float(answer is not None and answer in map(choice_of, references))


def _trimmed(text: str) -> str:
    return " ".join(text.split())


_RULES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact_score,
    "number": number_score,
    "choice": choice_score,
}
_ANSWERS: dict[str, Callable[[str], Any]] = {"number": number_of, "choice": choice_of}
GENERATED = (*_RULES, *ROUGE)


def score(names: Sequence[str], text: str, references: Sequence[str]) -> dict[str, float]:
    """Score one generated text; of several references the best counts, for each name apart.

    Args:
        names: ``exact`` (the same text but for white space), ``number`` and ``choice``
            (LLM-Adapters' answer rules), or ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``: F1
            by `rouge-score` with stemming. ROUGE sees ASCII letters and digits alone, and
            ``rougeLsum`` takes lines as sentences. A mean of these over rows is the plain mean;
            ``datasets`` and ``evaluate`` print the median of bootstrapped means, which differs by
            up to some hundredths of a point.
        text: What was generated; may be empty, which scores 0.
        references: One or more, none of them empty.

    Raises:
        UserError: Unknown name, no references or an empty one.
    """
    check_generated(names)
    if isinstance(references, str) or not references:
        raise UserError(f"references {brief(references)}: a list of one or more texts is needed")
    empty = next((reference for reference in references if not reference.strip()), None)
    if empty is not None:
        raise UserError(f"reference {empty!r} is empty: nothing can be scored against it")
    asked = tuple(name for name in names if name in ROUGE)
    rouge = _scorer(asked).score_multi(list(references), text) if asked else {}
    return {
        name: float(rouge[name].fmeasure) if name in rouge else _RULES[name](text, references)
        for name in names
    }


def answer_of(metric: str, text: str) -> Any:
    """What a metric takes for the answer in a text: a number, a letter, None, or the whole text."""
    return _ANSWERS.get(metric, str.strip)(text)


def seen_by_rouge(text: str) -> bool:
    """Say whether a text has any word that ROUGE counts."""
    return re.search(r"[a-z0-9]", text.lower()) is not None


def check_generated(names: Sequence[str]) -> None:
    """Raise a UserError for no name, or for one that is no score of generated texts."""
    if not names or isinstance(names, str):
        raise UserError(f"metrics {names!r}: name one or more of {', '.join(GENERATED)}")
    for name in names:
        if name not in GENERATED:
            raise UserError(
                f"no score of generated texts is called {name!r}: {instead(name, GENERATED)}"
            )


@cache
def _scorer(names: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - it imports all of NLTK

    return RougeScorer(names, use_stemmer=True)
