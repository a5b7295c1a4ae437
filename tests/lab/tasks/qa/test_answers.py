"""Answers are those of run_qa's rules in loops; EM and F1 those of SQuAD's scripts."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from ailora.lab.demo import encoder_dir
from ailora.lab.tasks.qa import load_squad_v1, load_squad_v2
from ailora.lab.tasks.qa.answers import (
    Found,
    best_answers,
    best_threshold,
    normalized,
    score_questions,
)
from ailora.lab.tasks.qa.windows import make_windows
from tests.lab.tasks.qa import official
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


# (prediction, golds, (EM, F1) by v1.1, by v2.0), worked out by hand.
CASES = [
    ("the Eiffel Tower!", ["Eiffel tower"], (1, 1), (1, 1)),
    ("eiffel", ["The Eiffel Tower"], (0, 2 / 3), (0, 2 / 3)),
    ("tower tower", ["tower"], (0, 2 / 3), (0, 2 / 3)),
    ("a U.S.A. an", ["usa"], (1, 1), (1, 1)),
    ("theory", ["the ory"], (0, 0), (0, 0)),
    ("well-known", ["well known"], (0, 0), (0, 0)),
    ("1,000", ["1000"], (1, 1), (1, 1)),
    ("-3.5", ["35"], (1, 1), (1, 1)),
    ("$5", ["£5"], (0, 0), (0, 0)),
    ("don’t", ["dont"], (0, 0), (0, 0)),
    ("ÉCOLE\u00a0des  mines", ["école des mines"], (1, 1), (1, 1)),
    ("Straße", ["STRASSE"], (0, 0), (0, 0)),
    ("Paris", ["London", "Paris, France"], (0, 2 / 3), (0, 2 / 3)),
    ("Paris", ["Paris, France", "paris"], (1, 1), (1, 1)),
    ("", ["Paris"], (0, 0), (0, 0)),
    ("the", ["Paris"], (0, 0), (0, 0)),
    ("The", ["A"], (1, 0), (1, 1)),
    ("", ["the"], (1, 0), (1, 1)),
    ("x—a—y", ["x— —y"], (1, 1), (1, 1)),
    ("x", ["the", "x"], (1, 1), (1, 1)),
    ("", ["the", "x"], (1, 0), (0, 0)),
    ("...", ["!"], (1, 0), (1, 1)),
]
NO_ANSWER = [("", (1, 1)), ("the", (1, 1)), ("Paris", (0, 0))]


def scores(guess: str, golds: list[str], *, v2: bool) -> tuple[float, float]:
    found = score_questions([guess], [{"text": golds}], has_unanswerable=v2)
    return float(found.exact[0]), float(found.f1[0])


@pytest.mark.parametrize(("guess", "golds", "v1", "v2"), CASES)
def test_scores_are_those_worked_out_by_hand(
    guess: str, golds: list[str], v1: tuple[float, float], v2: tuple[float, float]
) -> None:
    assert scores(guess, golds, v2=False) == pytest.approx(v1)
    assert scores(guess, golds, v2=True) == pytest.approx(v2)
    assert official.v1(guess, golds) == pytest.approx(v1)
    assert official.v2(guess, golds) == pytest.approx(v2)


@pytest.mark.parametrize(("guess", "expected"), NO_ANSWER)
def test_a_question_without_answers_wants_the_empty_one(
    guess: str, expected: tuple[float, float]
) -> None:
    assert scores(guess, [], v2=True) == expected == official.v2(guess, [])
    with pytest.raises(ValueError, match="without a gold answer"):
        scores(guess, [], v2=False)


def test_articles_go_only_as_whole_words_and_after_punctuation() -> None:
    assert normalized("A man, an  (apple) & The thea-tre") == "man apple theatre"


def test_random_texts_score_as_by_the_rules_written_anew() -> None:
    draw = random.Random(0)  # noqa: S311
    pieces = ["the", "A", "an", "Fox", "fox.", "d'or", "—", "é", "7,5", "  ", "\t", "!", "ﬁ", "İ"]
    for _ in range(2000):
        guess = " ".join(draw.choices(pieces, k=draw.randint(0, 4)))
        golds = [" ".join(draw.choices(pieces, k=draw.randint(1, 4))) for _ in range(3)]
        assert scores(guess, golds, v2=False) == official.v1(guess, golds)
        assert scores(guess, golds, v2=True) == official.v2(guess, golds)


def test_the_two_kinds_of_questions_are_also_scored_apart() -> None:
    golds = [{"text": ["x y"]}, {"text": []}, {"text": []}]
    found = score_questions(["x", "", "z"], golds, has_unanswerable=True)
    assert found.summary() == pytest.approx({"f1": (2 / 3 + 1) / 3, "exact_match": 1 / 3})
    assert found.by_answerability() == pytest.approx(
        {
            "has_answer_f1": 2 / 3,
            "has_answer_exact_match": 0.0,
            "no_answer_f1": 0.5,
            "no_answer_exact_match": 0.5,
        }
    )


def test_unequal_numbers_of_predictions_and_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        score_questions(["x"], [], has_unanswerable=False)


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better_than_the_best(seed: int) -> None:
    draw = np.random.default_rng(seed)
    margins = np.round(draw.normal(size=40), 0 if seed % 2 else 6)  # every other with ties
    has = draw.random(40) < 0.6
    golds = [{"text": ["x y"] if one else []} for one in has]
    said = [str(text) for text in draw.choice(["x", "x y", "z"], size=40)]
    answered = score_questions(said, golds, has_unanswerable=True)
    threshold = best_threshold(margins, answered)
    kept = ["" if margin > threshold else text for margin, text in zip(margins, said, strict=True)]
    reached = score_questions(kept, golds, has_unanswerable=True).summary()["f1"]
    best = official.best_total(margins.tolist(), answered.f1.tolist(), has.tolist())
    assert reached == pytest.approx(best)


def test_where_nothing_should_be_answered_the_threshold_is_below_all_margins() -> None:
    answered = score_questions(["x", "x"], [{"text": []}] * 2, has_unanswerable=True)
    assert best_threshold(np.array([-3.0, 2.0]), answered) < -3.0
    assert best_threshold(np.array([np.inf, np.inf]), answered) == 0.0


def perturbed(text: str, context: str, draw: random.Random) -> str:
    words = context.split()
    at = draw.randrange(len(words))
    changes = (
        text,
        "",
        f"The {text.upper()}!",
        text[:-1],
        f"{text} {words[at]}",
        " ".join(words[at : at + 3]),
    )
    return draw.choice(changes)


@needs_real
@pytest.mark.parametrize("v2", [False, True])
def test_all_real_dev_questions_score_as_by_the_rules_written_anew(*, v2: bool) -> None:
    task = (load_squad_v2 if v2 else load_squad_v1)(data=REAL)
    draw = random.Random(1)  # noqa: S311
    rows = list(zip(task.test["answers"][:], task.test["context"][:], strict=True))
    said = [perturbed((gold["text"] or ["x"])[0], context, draw) for gold, context in rows]
    found = score_questions(said, task.test["answers"][:], has_unanswerable=v2)
    rule = official.v2 if v2 else official.v1
    expected = [rule(guess, gold["text"]) for guess, (gold, _) in zip(said, rows, strict=True)]
    assert len(said) == (6078 if v2 else 10570)
    assert list(zip(found.exact, found.f1, strict=True)) == expected
    assert 0.2 < found.summary()["exact_match"] < found.summary()["f1"] < 0.9
