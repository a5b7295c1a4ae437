"""Answers from the scores of starts and ends, and how answers are scored.

Answers are found by the rules of transformers' run_qa. In each window the ``n_best`` highest starts
meet the ``n_best`` highest ends, among all tokens of the window; of the pairs that are a span of
the context, not too long, the one of the largest sum is the window's answer, and the best over its
windows the question's. "No answer" scores the null position's start and end, the least over the
windows: each must be for it.

They are scored by exact match and F1, by the rules of SQuAD's evaluation scripts, v1.1 and v2.0.
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
from datasets import Dataset

_WINDOWS_AT_ONCE = 512
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the scripts
_Array = npt.NDArray[Any]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best answer to each question.

    Attributes:
        texts: (n,) spans of the contexts; empty only where no span could be found at all.
        margins: (n,) fp64, score of "no answer" minus the best answer's; infinite without one.
    """

    texts: tuple[str, ...]
    margins: _Floats

    def unless_null(self, threshold: float) -> tuple[str, ...]:
        """The texts, but empty where the margin is larger than ``threshold``."""
        pairs = zip(self.texts, self.margins, strict=True)
        return tuple("" if margin > threshold else text for text, margin in pairs)


def best_answers(
    start_logits: _Array,
    end_logits: _Array,
    windows: Dataset,
    contexts: Sequence[str],
    *,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> Found:
    """Find the best answer to each question.

    Args:
        start_logits: (windows, tokens), padded on the right to any length.
        end_logits: Likewise.
        windows: As `ailora.lab.tasks.qa.windows.make_windows` returns them.
        contexts: One per question, which ``row`` of the windows refers to.
        n_best: Starts and ends considered in each window. Where they make no span in any window
            of a question, the highest ones within the context are considered.
        max_answer_length: Most tokens of an answer.

    Raises:
        ValueError: Not one row of logits for each window.
    """
    if not len(start_logits) == len(end_logits) == len(windows):
        raise ValueError(f"{len(start_logits)} rows of logits for {len(windows)} windows")
    layout = _Layout.of(windows, start_logits.shape[1])
    search = _Search(start_logits, end_logits, layout, n_best, max_answer_length)
    best = search.spans(np.arange(len(windows)), layout.real)
    rows = layout.row
    lost = ~np.isin(rows, rows[np.isfinite(best.scores)])
    if lost.any():
        again = np.flatnonzero(lost)
        best.put(again, search.spans(again, layout.context))
    return _by_question(best, layout, _null_scores(start_logits, end_logits, layout), contexts)


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
        """The same means of questions with and without an answer (v2.0's HasAns and NoAns)."""
        found: dict[str, float] = {}
        for name, mask in (("has_answer", self.has_answer), ("no_answer", ~self.has_answer)):
            if mask.any():
                means = self.summary(np.flatnonzero(mask).tolist())
                found |= {f"{name}_{score}": value for score, value in means.items()}
        return found


def score_questions(
    predictions: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    *,
    has_unanswerable: bool,
    literal: bool = False,
) -> QuestionScores:
    """Score each prediction against the best of its gold answers.

    Args:
        predictions: One text per question; empty for "no answer".
        answers: For each question a mapping whose ``text`` lists the gold answers.
        has_unanswerable: Score by v2.0's rules; else by v1.1's.
        literal: Compare with right answers of which these rules leave nothing (``A``, ``the``,
            ``?``) as they are, case and outer spaces aside. By the rules themselves any such text
            would be as right, and none would reach an F1 of 1 in v1.1.

    Raises:
        ValueError: Lengths differ, or a question has no gold answer under v1.1's rules.
    """
    rule = _v2 if has_unanswerable else _v1
    golds = [row["text"] for row in answers]
    pairs = [
        _literal(one, gold) if literal and is_bare(gold) else rule(one, gold)
        for one, gold in zip(predictions, golds, strict=True)
    ]
    exact, f1 = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    return QuestionScores(exact=exact, f1=f1, has_answer=np.asarray([bool(g) for g in golds]))


def is_bare(golds: Sequence[str]) -> bool:
    """Whether there are right answers, and SQuAD's rules leave nothing of any of them."""
    return bool(golds) and not any(map(normalized, golds))


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


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and the articles a, an, the, single spaces."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Windows as arrays, (windows,) or (windows, tokens)."""

    row: _Array
    null: _Array
    char_starts: _Array
    char_ends: _Array
    real: _Array  # not padding
    context: _Array

    @classmethod
    def of(cls, windows: Dataset, width: int) -> _Layout:
        columns = windows.with_format("numpy")
        first = columns["first"][:]
        shape = (len(windows), width)
        starts, ends = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        context = np.zeros(shape, bool)
        for index, (begins, stops) in enumerate(
            zip(columns["char_starts"][:], columns["char_ends"][:], strict=True)
        ):
            place = slice(first[index], first[index] + len(begins))
            starts[index, place], ends[index, place] = begins, stops
            context[index, place] = True
        lengths = np.asarray([len(tokens) for tokens in columns["input_ids"][:]])
        return cls(
            row=columns["row"][:],
            null=columns["null"][:],
            char_starts=starts,
            char_ends=ends,
            real=np.arange(width) < lengths[:, None],
            context=context,
        )


@dataclass(frozen=True)
class _Spans:
    """The best span of each window, in tokens; a score of minus infinity is none."""

    starts: _Array
    ends: _Array
    scores: _Array

    def put(self, windows: _Array, other: _Spans) -> None:
        for mine, others in (
            (self.starts, other.starts),
            (self.ends, other.ends),
            (self.scores, other.scores),
        ):
            mine[windows] = others


@dataclass(frozen=True)
class _Search:
    start_logits: _Array
    end_logits: _Array
    layout: _Layout
    n_best: int
    max_length: int

    def spans(self, windows: _Array, candidates: _Array) -> _Spans:
        """The best span of each of ``windows``, of the highest ``candidates`` tokens."""
        parts = [
            self._some(windows[begin : begin + _WINDOWS_AT_ONCE], candidates)
            for begin in range(0, len(windows), _WINDOWS_AT_ONCE)
        ]
        return _Spans(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _some(self, windows: _Array, candidates: _Array) -> tuple[_Array, _Array, _Array]:
        start_scores = np.where(candidates[windows], self.start_logits[windows], -np.inf)
        end_scores = np.where(candidates[windows], self.end_logits[windows], -np.inf)
        starts, ends = _highest(start_scores, self.n_best), _highest(end_scores, self.n_best)
        pairs = (
            np.take_along_axis(start_scores, starts, 1)[:, :, None]
            + np.take_along_axis(end_scores, ends, 1)[:, None, :]
        )
        pairs = np.where(self._allowed(windows, starts, ends), pairs, -np.inf)
        flat = pairs.reshape(len(windows), -1)
        best = flat.argmax(axis=1)
        each = np.arange(len(windows))
        start_rank, end_rank = np.divmod(best, ends.shape[1])
        return starts[each, start_rank], ends[each, end_rank], flat[each, best]

    def _allowed(self, windows: _Array, starts: _Array, ends: _Array) -> _Array:
        def of_starts(values: _Array) -> _Array:
            return np.take_along_axis(values[windows], starts, 1)[:, :, None]

        def of_ends(values: _Array) -> _Array:
            return np.take_along_axis(values[windows], ends, 1)[:, None, :]

        layout = self.layout
        tokens = ends[:, None, :] - starts[:, :, None] + 1
        fits = (tokens >= 1) & (tokens <= self.max_length)
        inside = of_starts(layout.context) & of_ends(layout.context)
        holds_text = of_ends(layout.char_ends) > of_starts(layout.char_starts)
        allowed: _Array = fits & inside & holds_text
        return allowed


def _highest(scores: _Array, count: int) -> _Array:
    """Positions of the ``count`` highest of each row, highest first."""
    order: _Array = np.argsort(-scores, axis=1, kind="stable")
    return order[:, :count]


def _null_scores(start_logits: _Array, end_logits: _Array, layout: _Layout) -> _Array:
    each = np.arange(len(layout.row))
    scores: _Array = start_logits[each, layout.null] + end_logits[each, layout.null]
    return scores


def _by_question(best: _Spans, layout: _Layout, null: _Array, contexts: Sequence[str]) -> Found:
    count = len(contexts)
    least_null = np.full(count, np.inf)
    np.minimum.at(least_null, layout.row, null)
    top = np.full(count, -np.inf)
    np.maximum.at(top, layout.row, best.scores)
    texts = [""] * count
    # Backwards, so that the first of equal windows stays.
    for window in np.flatnonzero(np.isfinite(best.scores))[::-1]:
        row = layout.row[window]
        if best.scores[window] == top[row]:
            begin = layout.char_starts[window, best.starts[window]]
            texts[row] = contexts[row][begin : layout.char_ends[window, best.ends[window]]]
    return Found(texts=tuple(texts), margins=least_null - top)


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


def _literal(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    same = float(prediction.strip().lower() in {gold.strip().lower() for gold in golds})
    return same, same


def _overlap(guess: Sequence[str], gold: Sequence[str]) -> float:
    common = sum((Counter(guess) & Counter(gold)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(guess), common / len(gold)
    return 2 * precision * recall / (precision + recall)
