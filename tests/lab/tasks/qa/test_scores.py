"""EM and F1 are those of SQuAD's evaluation scripts."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ailora.lab.tasks.qa import load_squad_v1, load_squad_v2
from ailora.lab.tasks.qa.scores import best_threshold, normalized, score_questions
from tests.lab.tasks.qa import official
from tests.lab.tasks.qa.data import REAL, needs_real

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
