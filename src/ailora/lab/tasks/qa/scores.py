"""Exact match and F1 by the rules of SQuAD's evaluation scripts, v1.1 and v2.0.

The two differ where nothing is left of a text: v1.1 finds no common word and gives F1 0; v2.0 gives
1 if both are empty and 0 if one is, drops gold answers of which nothing is left, and holds a
question without answers to have the empty one.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the scripts
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class QuestionScores:
    """Scores of each question, in [0, 1].

    Attributes:
        exact: (n,) fp64, 0 or 1.
        f1: (n,) fp64.
        has_answer: (n,) bool, whether there are gold answers.
    """

    exact: _Floats
    f1: _Floats
    has_answer: npt.NDArray[np.bool_]

    def summary(self, chosen: Sequence[int] | None = None) -> dict[str, float]:
        """Means over all questions, or over those chosen; ``f1`` first."""
        rows = slice(None) if chosen is None else np.asarray(chosen)
        return {"f1": float(self.f1[rows].mean()), "exact_match": float(self.exact[rows].mean())}

    def by_answerability(self) -> dict[str, float]:
        """The same of the questions with and without an answer (v2.0's HasAns and NoAns)."""
        found: dict[str, float] = {}
        for name, mask in (("has_answer", self.has_answer), ("no_answer", ~self.has_answer)):
            if mask.any():
                means = self.summary(np.flatnonzero(mask).tolist())
                found |= {f"{name}_{score}": value for score, value in means.items()}
        return found


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and the articles a, an, the, single spaces."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def score_questions(
    predictions: Sequence[str], answers: Sequence[Mapping[str, Any]], *, has_unanswerable: bool
) -> QuestionScores:
    """Score each prediction against the best of its gold answers.

    Args:
        predictions: A text a question; empty for "no answer".
        answers: For each question a mapping whose ``text`` lists the gold answers.
        has_unanswerable: Score by v2.0's rules; else by v1.1's.

    Raises:
        ValueError: Lengths differ, or a question has no gold answer under v1.1's rules.
    """
    rule = _v2 if has_unanswerable else _v1
    golds = [row["text"] for row in answers]
    pairs = [rule(one, gold) for one, gold in zip(predictions, golds, strict=True)]
    exact, f1 = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    return QuestionScores(exact=exact, f1=f1, has_answer=np.asarray([bool(g) for g in golds]))


def best_threshold(margins: _Floats, answered: QuestionScores) -> float:
    """The null threshold of the highest mean F1; of several, the lowest.

    It is fitted to these questions: report scores of it on others only.

    Args:
        margins: (n,) score of "no answer" minus that of the best answer; a question is answered
            where it is at most the threshold.
        answered: Scores of the best answers, whatever the margin.

    Returns:
        One of the margins; or a number below them all, where answering nothing is best.
    """
    finite = np.isfinite(margins)
    order = np.argsort(margins[finite], kind="stable")
    sorted_margins = margins[finite][order]
    if not len(order):
        return 0.0
    # Answering a question wins its F1, and loses the 1 of a rightly unanswered one.
    gains = (answered.f1 - ~answered.has_answer)[finite][order]
    last_of_equal = np.append(np.diff(sorted_margins) > 0, True)
    totals = np.append(0.0, np.cumsum(gains)[last_of_equal])
    thresholds = np.append(sorted_margins[0] - 1.0, sorted_margins[last_of_equal])
    return float(thresholds[np.argmax(totals)])


def _v1(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    if not golds:
        raise ValueError("a question without a gold answer has no score under SQuAD v1.1's rules")
    guess = normalized(prediction)
    normal = [normalized(gold) for gold in golds]
    return float(guess in normal), max(_overlap(guess.split(), gold.split()) for gold in normal)


def _v2(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    guess = normalized(prediction)
    normal = [text for text in map(normalized, golds) if text] or [""]
    exact = float(guess in normal)
    if not guess or normal == [""]:
        return exact, exact
    return exact, max(_overlap(guess.split(), gold.split()) for gold in normal)


def _overlap(guess: Sequence[str], gold: Sequence[str]) -> float:
    common = sum((Counter(guess) & Counter(gold)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(guess), common / len(gold)
    return 2 * precision * recall / (precision + recall)
