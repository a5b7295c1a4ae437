"""Answers out of the scores of starts and ends, by the rules of transformers' run_qa.

In each window the ``n_best`` highest starts meet the ``n_best`` highest ends, among all tokens of
the window; of the pairs that are a span of the context, not too long, the one of the largest sum
is the window's answer, and the best over its windows the question's. "No answer" scores the null
position's start and end, the least over the windows: each must be for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

_WINDOWS_AT_ONCE = 512
_Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best answer to each question.

    Attributes:
        texts: (n,) spans of the contexts; empty only where no span could be found at all.
        margins: (n,) fp64, score of "no answer" minus the best answer's; infinite without one.
    """

    texts: tuple[str, ...]
    margins: npt.NDArray[np.float64]

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
        contexts: One a question, which ``row`` of the windows refers to.
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
