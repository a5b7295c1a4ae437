"""Questions with windows of their contexts: nothing lost, labels where the answers are."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ailora.errors import UserError
from ailora.lab.demo import encoder_dir
from ailora.lab.tasks.qa import load_squad_v1
from ailora.lab.tasks.qa.answers import best_answers, score_questions
from ailora.lab.tasks.qa.windows import make_windows
from tests.lab.tasks.qa.data import REAL, needs_real
from tests.lab.tasks.qa.models import perfect, rows, tokenizer

WORDS = [f"w{number}" for number in range(40)]
CONTEXT = " ".join(WORDS)


def labelled(window: dict[str, Any], context: str) -> str:
    """The text that a window's labels point at."""
    begin, end = (window[name] - window["first"] for name in ("start_positions", "end_positions"))
    return context[window["char_starts"][begin] : window["char_ends"][end]]


def windows_of(
    data: Dataset, own: PreTrainedTokenizerFast | None = None, *, length: int = 16, stride: int = 4
) -> Dataset:
    own = own or tokenizer([*WORDS, "what", "is", "it"])
    return make_windows(data, own, max_length=length, stride=stride)


def test_a_short_context_is_one_window_whose_labels_are_the_answer() -> None:
    (window,) = windows_of(rows(("what is", "w1 w2 w3 w4", "w2 w3")))
    assert window["input_ids"] == [2, 44, 45, 3, 5, 6, 7, 8, 3]
    assert (window["first"], window["null"], window["row"]) == (4, 0, 0)
    assert (window["start_positions"], window["end_positions"]) == (5, 6)
    assert (window["char_starts"], window["char_ends"]) == ([0, 3, 6, 9], [2, 5, 8, 11])


def test_windows_overlap_by_the_stride_and_lose_nothing() -> None:
    found = list(windows_of(rows(("what is it", CONTEXT, "w20"))))
    texts = [
        [CONTEXT[a:b] for a, b in zip(w["char_starts"], w["char_ends"], strict=True)] for w in found
    ]
    assert all(len(window["input_ids"]) <= 16 for window in found)
    assert all(texts[n][-4:] == texts[n + 1][:4] for n in range(len(texts) - 1))
    assert [*texts[0], *(word for text in texts[1:] for word in text[4:])] == WORDS


def test_rows_tokenised_in_parts_are_the_rows_tokenised_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = rows(*(("what", " ".join(WORDS[n:]), f"w{n + 1}") for n in range(7)))
    whole = windows_of(data).to_list()
    monkeypatch.setattr("ailora.lab.tasks.qa.windows._ROWS_AT_ONCE", 3)
    assert windows_of(data).to_list() == whole
    assert {window["row"] for window in whole} == set(range(7))


def test_windows_without_the_whole_answer_point_at_the_null_position() -> None:
    found = list(windows_of(rows(("what is it", CONTEXT, "w9 w10"))))
    assert [labelled(w, CONTEXT) if w["start_positions"] else "" for w in found[:3]] == [
        "",
        "w9 w10",
        "",
    ]
    # The first window ends with w9: half an answer is none.
    assert CONTEXT[: found[0]["char_ends"][-1]].endswith("w9")


def test_a_question_without_answers_points_at_the_null_position_everywhere() -> None:
    for window in windows_of(rows(("what", CONTEXT, None))):
        assert window["start_positions"] == window["end_positions"] == window["null"] == 0


def test_without_a_cls_token_the_null_position_is_the_first() -> None:
    own = tokenizer([*WORDS, "what"], cls=False)
    (window,) = windows_of(rows(("what", "w1", None)), own)
    assert (window["null"], window["start_positions"], window["first"]) == (0, 0, 2)


def test_an_answer_that_is_not_where_the_row_says_is_no_label() -> None:
    data = rows(("what", "w1 w2 w3", "w2"))
    wrong = [{"text": ["w2"], "answer_start": [0]}]
    data = data.remove_columns("answers").add_column("answers", wrong)
    (window,) = windows_of(data)
    assert window["start_positions"] == window["end_positions"] == 0


def test_a_question_longer_than_its_room_is_cut_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = rows(("what " * 30, CONTEXT, "w39"), ("what is", CONTEXT, "w1"))
    with caplog.at_level(logging.WARNING):
        found = windows_of(data)
    assert "1 of 2 questions cut to 4 tokens" in caplog.text  # (16 - 3 special - 4) // 2
    cut, whole = (next(w for w in found if w["row"] == row) for row in (0, 1))
    assert cut["input_ids"][:7] == [2, 44, 44, 44, 44, 3, 4]
    assert whole["input_ids"][:5] == [2, 44, 45, 3, 4]
    assert [labelled(w, CONTEXT) for w in found if w["row"] == 0 and w["start_positions"]] == [
        "w39"
    ]


def test_a_stride_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(
        UserError, match="doc_stride=12 leaves no room in a window of max_length=16"
    ):
        windows_of(rows(("what", "w1", "w1")), stride=12)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="Slow is not a fast tokenizer"):
        windows_of(rows(("what", "w1", "w1")), Slow())  # type: ignore[arg-type]


def test_one_character_of_several_tokens_is_taken_whole() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({"<s>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    own = PreTrainedTokenizerFast(
        tokenizer_object=inner, **dict.fromkeys(("cls_token", "pad_token"), "<s>")
    )
    context = "so 🦜 né"
    found = make_windows(rows(("q", context, "🦜")), own, max_length=60, stride=5)
    (window,) = found
    assert labelled(window, context) == "🦜"
    assert window["end_positions"] - window["start_positions"] == 3
    start, end = perfect(found, 60)
    assert best_answers(start, end, found, [context]).texts == ("🦜",)


def test_a_long_word_in_many_pieces_is_cut_to_the_room() -> None:
    own = AutoTokenizer.from_pretrained(encoder_dir())
    data = rows(("antidisestablishmentarianism" * 9, "It is so.", "so"))
    found = make_windows(data, own, max_length=40, stride=8)
    assert all(len(window["input_ids"]) <= 40 for window in found)
    assert "so" in {labelled(w, "It is so.") for w in found if w["start_positions"]}


@needs_real
def test_labels_of_real_questions_lead_back_to_their_answers() -> None:
    task = load_squad_v1(data=REAL, eval_limit=600)
    own = AutoTokenizer.from_pretrained(encoder_dir())
    found = make_windows(task.test, own, max_length=160, stride=48)
    assert len(found) > 1.3 * 600
    start, end = perfect(found, 160)
    said = best_answers(start, end, found, task.test["context"][:], max_answer_length=100)
    scores = score_questions(said.texts, task.test["answers"][:], has_unanswerable=False)
    # Not 1: some golds end within a token ("gold" of "golden"); a few are longer than a window.
    assert scores.summary()["exact_match"] > 0.99
