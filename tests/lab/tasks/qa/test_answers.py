"""Answers out of start and end scores are those of run_qa's rules, written anew here in loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from ailora.lab.demo import encoder_dir
from ailora.lab.tasks.qa import load_squad_v1
from ailora.lab.tasks.qa.answers import Found, best_answers
from ailora.lab.tasks.qa.windows import make_windows
from tests.lab.tasks.qa.data import REAL, needs_real
from tests.lab.tasks.qa.models import logits, rows, tokenizer

WORDS = [f"w{number}" for number in range(30)]
CONTEXT = " ".join(WORDS)
Array = npt.NDArray[Any]


def windows_of(data: Dataset, *, length: int = 16, stride: int = 4) -> Dataset:
    return make_windows(data, tokenizer([*WORDS, "what"]), max_length=length, stride=stride)


def in_loops(
    start: Array, end: Array, windows: Dataset, contexts: list[str], n_best: int, longest: int
) -> tuple[list[str], list[float]]:
    """Each question's best text and null margin, pair by pair."""
    texts, margins = [], []
    for question, context in enumerate(contexts):
        best, text, null = -np.inf, "", np.inf
        for index, window in enumerate(windows):
            if window["row"] != question:
                continue
            length = len(window["input_ids"])
            first, count = window["first"], len(window["char_starts"])
            null = min(null, start[index, 0] + end[index, 0])
            starts = np.argsort(-start[index, :length], kind="stable")[:n_best]
            ends = np.argsort(-end[index, :length], kind="stable")[:n_best]
            for s in starts:
                for e in ends:
                    inside = first <= s < first + count and first <= e < first + count
                    score = start[index, s] + end[index, e]
                    if inside and s <= e < s + longest and score > best:
                        best = score
                        places = window["char_starts"][s - first], window["char_ends"][e - first]
                        text = context[slice(*places)]
        texts.append(text)
        margins.append(float(np.float64(null) - np.float64(best)))
    return texts, margins


def found(data: Dataset, windows: Dataset, start: Array, end: Array, **options: Any) -> Found:
    return best_answers(start, end, windows, data["context"][:], **options)


@pytest.mark.parametrize(("n_best", "longest"), [(20, 30), (3, 4), (1, 1), (6, 2)])
def test_answers_are_those_found_pair_by_pair(n_best: int, longest: int) -> None:
    data = rows(*(("what", " ".join(WORDS[n:]), None) for n in range(20)))
    windows = windows_of(data)
    draw = np.random.default_rng(n_best)
    start, end = (draw.normal(size=(len(windows), 16)).astype(np.float32) for _ in range(2))
    # Starts and ends that prefer the context, so that even the single best pair often is a span.
    start[:, :4] -= 2
    end[:, :4] -= 2
    got = found(data, windows, start, end, n_best=n_best, max_answer_length=longest)
    texts, margins = in_loops(start, end, windows, data["context"][:], n_best, longest)
    known = [index for index, text in enumerate(texts) if text]
    assert len(known) > (15 if n_best > 1 else 2)
    assert [got.texts[index] for index in known] == [texts[index] for index in known]
    assert got.margins[known] == pytest.approx(np.asarray(margins)[known], rel=1e-6)


def test_the_best_of_all_windows_counts_and_the_least_null_score() -> None:
    data = rows(("what", CONTEXT, None))
    windows = windows_of(data)
    assert len(windows) == 4
    start, end = logits(windows, 16), logits(windows, 16)
    start[:, 0] = [5, 4, 3, 6]
    start[1, 5], end[1, 6] = 7, 8
    start[2, 5], end[2, 6] = 9, 9
    got = found(data, windows, start, end)
    begin, stop = windows[2]["char_starts"][2], windows[2]["char_ends"][3]
    assert got.texts == (CONTEXT[begin:stop],)
    assert got.margins.tolist() == [3 - 18]


def test_nothing_is_answered_above_the_threshold() -> None:
    both = Found(texts=("x", "y", "z"), margins=np.array([-1.0, 0.0, 0.5]))
    assert both.unless_null(0.0) == ("x", "y", "")
    assert both.unless_null(-1.5) == ("", "", "")
    assert both.unless_null(1.0) == ("x", "y", "z")


def test_spans_backwards_too_long_or_outside_the_context_are_no_answers() -> None:
    data = rows(("what", "w1 w2 w3 w4 w5 w6", None))
    windows = windows_of(data)
    start, end = logits(windows, 12), logits(windows, 12)
    start[0, 8], end[0, 3] = 9, 9  # backwards
    start[0, 4], end[0, 7] = 8, 8  # four tokens
    start[0, 1], end[0, 2] = 20, 20  # the question
    start[0, 5], end[0, 6] = 5, 6
    assert found(data, windows, start, end, max_answer_length=2).texts == ("w3 w4",)
    assert found(data, windows, start, end, max_answer_length=4).texts == ("w2 w3 w4 w5",)


def test_where_the_highest_make_no_span_the_highest_within_the_context_do() -> None:
    data = rows(("what", "w1 w2 w3", None), ("what", "w4 w5", None))
    windows = windows_of(data)
    start, end = logits(windows, 10), logits(windows, 10)
    start[:, 0] = end[:, 0] = 9
    start[0, 4], end[0, 5] = 1, 1
    start[1, 3], end[1, 3] = 10, 10
    got = found(data, windows, start, end, n_best=1)
    assert got.texts == ("w2 w3", "w4")
    assert got.margins.tolist() == [18 - 2, 18 - 20]


def test_padding_never_counts_however_high_its_scores() -> None:
    data = rows(("what", CONTEXT, None))
    windows = windows_of(data)
    last = len(windows[-1]["input_ids"])
    assert last < 16
    start, end = logits(windows, 20), logits(windows, 20)
    start[0, 4] = end[0, 4] = 1
    start[-1, 5] = end[-1, 5] = 2
    start[-1, last:] = end[-1, last:] = 99
    begin, stop = windows[-1]["char_starts"][2], windows[-1]["char_ends"][2]
    assert found(data, windows, start, end, n_best=1).texts == (CONTEXT[begin:stop],)


def test_the_order_of_the_questions_windows_does_not_matter() -> None:
    data = rows(("what", CONTEXT, None), ("what", "w1", None), ("what", CONTEXT, None))
    windows = windows_of(data)
    draw = np.random.default_rng(0)
    start, end = (draw.normal(size=(len(windows), 16)) for _ in range(2))
    order = draw.permutation(len(windows))
    straight = found(data, windows, start, end)
    mixed = found(data, windows.select(order), start[order], end[order])
    assert mixed.texts == straight.texts
    assert mixed.margins.tolist() == straight.margins.tolist()


def test_a_context_of_no_tokens_has_no_answer_at_all() -> None:
    data = rows(("what", "\u200b\u0000", None), ("what", "so", None))
    own = AutoTokenizer.from_pretrained(encoder_dir())
    windows = make_windows(data, own, max_length=16, stride=2)
    assert windows[0]["char_starts"] == []
    got = found(data, windows, logits(windows, 16), logits(windows, 16))
    assert got.texts == ("", "so")
    assert got.margins[0] == np.inf


def test_one_row_of_logits_is_needed_for_each_window() -> None:
    data = rows(("what", "w1", None))
    windows = windows_of(data)
    with pytest.raises(ValueError, match="2 rows of logits for 1 windows"):
        found(data, windows, np.zeros((2, 8)), np.zeros((2, 8)))


@needs_real
def test_real_questions_are_answered_as_pair_by_pair() -> None:
    task = load_squad_v1(data=REAL, eval_limit=40)
    own = AutoTokenizer.from_pretrained(encoder_dir())
    windows = make_windows(task.test, own, max_length=128, stride=32)
    draw = np.random.default_rng(0)
    start, end = (draw.normal(size=(len(windows), 128)).astype(np.float32) for _ in range(2))
    got = found(task.test, windows, start, end)
    texts, margins = in_loops(start, end, windows, task.test["context"][:], 20, 30)
    assert list(got.texts) == texts
    assert got.margins == pytest.approx(margins, rel=1e-6)
