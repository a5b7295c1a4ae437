"""Runs on questions: what they learn, that their answers are their scores', and reloading."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, EvalPrediction

from ailora.lab.methods import METHODS, load
from ailora.lab.tasks import QATask
from ailora.lab.tasks.qa import load_squad, load_squad_v1
from ailora.lab.training import RunConfig, train
from ailora.lab.training.kinds import kind_of
from ailora.lab.training.kinds.question_answering import QuestionAnswering
from ailora.lab.training.results import DivergedError
from ailora.lab.training.scoring import score
from tests.lab.tasks.qa import official
from tests.lab.tasks.qa.data import REAL, needs_real, write_jsonl
from tests.lab.tasks.qa.models import SPECIAL, tokenizer

TOWNS = tuple(f"town{number}" for number in range(6))
FILLER = ("the", "film", "was", "shot", "in", "by", "a", "crew", "of", "many", "on", "hills")
WORDS = (*TOWNS, *FILLER, "where", "who", "?")


def questions(count: int, *, seed: int, longest: int = 40, unanswered: bool = False) -> list[Any]:
    """Contexts of filler with one town; every third without one, if some shall be unanswered."""
    draw = random.Random(seed)  # noqa: S311
    rows = []
    for number in range(count):
        words = draw.choices(FILLER, k=draw.randint(4, longest))
        texts, starts = [], []
        if not (unanswered and number % 3 == 0):
            at, town = draw.randrange(len(words)), draw.choice(TOWNS)
            texts, starts = [town], [len(" ".join([*words[:at], ""]))]
            words.insert(at, town)
        answers = {"text": texts, "answer_start": starts}
        row = {"id": f"{seed}-{number}", "question": "where ?", "context": " ".join(words)}
        rows.append({**row, "answers": answers})
    return rows


def task_of(folder: Path, *, unanswered: bool = False) -> QATask:
    for seed, (part, count) in enumerate((("train", 64), ("dev", 24), ("test", 24))):
        rows = questions(count, seed=seed, unanswered=unanswered)
        write_jsonl(folder / f"{part}.jsonl", rows)
    return load_squad(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT, with segments."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qa"
    config = hf.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.BertModel(config).save_pretrained(folder)
    tokenizer(WORDS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> QATask:
    return task_of(tmp_path_factory.mktemp("v1"))


@pytest.fixture(scope="module")
def task_v2(tmp_path_factory: pytest.TempPathFactory) -> QATask:
    return task_of(tmp_path_factory.mktemp("v2"), unanswered=True)


@pytest.fixture(scope="module")
def settings(model: Path) -> RunConfig:
    """Contexts of up to 40 words in windows of 24 tokens: most have two or three."""
    return RunConfig(
        model=str(model),
        task="towns",
        rank=2,
        lr=5e-2,
        epochs=4,
        batch_size=8,
        max_length=24,
        doc_stride=8,
    )


Done = tuple[dict[str, Any], Path]


def run(settings: RunConfig, task: QATask, out: Path) -> Done:
    result = train(settings, task, out)
    (folder,) = out.iterdir()
    return result, folder


@pytest.fixture(scope="module")
def done(settings: RunConfig, task: QATask, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(settings, task, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def done_v2(settings: RunConfig, task_v2: QATask, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(settings, task_v2, tmp_path_factory.mktemp("runs"))


def answers_in(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / f"predictions-{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def recomputed(rule: Any, said: list[str], rows: Dataset) -> dict[str, float]:
    pairs = [rule(text, row["answers"]["text"]) for text, row in zip(said, rows, strict=True)]
    exact, f1 = np.mean(pairs, axis=0)
    return {"f1": f1, "exact_match": exact}


def test_a_run_learns_to_answer_and_moves_nothing_at_its_start(done: Done) -> None:
    result, _ = done
    first, *_, last = result["history"]
    assert result["step0_deviation"] == 0.0
    assert last["loss"] < result["history"][1]["loss"]
    assert first["f1"] < 0.5 < 0.75 < last["f1"] <= 1
    assert result["metrics"]["test"]["exact_match"] > 0.7
    assert list(result["metrics"]["test"]) == ["f1", "exact_match"]
    assert result["majority"] is None


@pytest.mark.parametrize("split", ["selection", "test"])
def test_the_written_answers_have_the_scores_of_the_result(
    done: Done, task: QATask, split: str
) -> None:
    result, folder = done
    rows, answers = getattr(task, split), answers_in(folder, split)
    assert [row["id"] for row in answers] == rows["id"][:]
    expected = recomputed(official.v1, [row["prediction"] for row in answers], rows)
    assert result["metrics"][split] == pytest.approx(expected)


def test_the_last_line_of_the_curve_is_the_selection_score(done: Done) -> None:
    result, _ = done
    last = result["history"][-1]
    scores = {name: last[name] for name in ("f1", "exact_match")}
    assert scores == pytest.approx(result["metrics"]["selection"])


def alone(model: Any, own: Any, row: dict[str, Any]) -> str:
    """The answer to one question, window by window, by stock transformers and plain loops."""
    encoded = own(
        row["question"],
        row["context"],
        truncation="only_second",
        max_length=24,
        stride=8,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    best, text = -float("inf"), ""
    for index, tokens in enumerate(encoded["input_ids"]):
        segments = torch.tensor([encoded["token_type_ids"][index]])
        with torch.no_grad():
            found = model(input_ids=torch.tensor([tokens]), token_type_ids=segments)
        context = [place for place, part in enumerate(encoded.sequence_ids(index)) if part == 1]
        for start in context:
            for end in context:
                score = float(found.start_logits[0, start] + found.end_logits[0, end])
                if start <= end < start + 30 and score > best:
                    offsets = encoded["offset_mapping"][index]
                    best, text = score, row["context"][offsets[start][0] : offsets[end][1]]
    return text


def test_the_adapter_reloads_and_answers_the_same(done: Done, task: QATask, model: Path) -> None:
    _, folder = done
    base = AutoModelForQuestionAnswering.from_pretrained(model)
    tuned = load(base, folder / "adapter").eval()
    own = AutoTokenizer.from_pretrained(model)
    said = [alone(tuned, own, row) for row in task.test]
    assert said == [row["prediction"] for row in answers_in(folder, "test")]
    # Control: the base model alone answers otherwise.
    fresh = AutoModelForQuestionAnswering.from_pretrained(model).eval()
    assert said != [alone(fresh, own, row) for row in task.test]


def test_a_run_with_segments_saves_a_task_type_of_peft_that_hands_them_on(done: Done) -> None:
    saved = json.loads((done[1] / "adapter" / "adapter_config.json").read_text())
    assert saved["task_type"] == "FEATURE_EXTRACTION"


def test_scoring_a_finished_run_again_gives_its_result(
    done: Done, settings: RunConfig, task: QATask
) -> None:
    result, folder = done
    again = score(settings, task, folder / "adapter")
    assert again.metrics == pytest.approx(result["metrics"]["test"])
    assert list(again.outputs) == answers_in(folder, "test")


def test_questions_without_an_answer_are_scored_apart_and_by_their_rules(
    done_v2: Done, task_v2: QATask
) -> None:
    result, folder = done_v2
    test, answers = result["metrics"]["test"], answers_in(folder, "test")
    said = [row["prediction"] for row in answers]
    assert {name: test[name] for name in ("f1", "exact_match")} == pytest.approx(
        recomputed(official.v2, said, task_v2.test)
    )
    for name in ("f1", "exact_match"):
        assert test[name] == pytest.approx(fmean(row[name] for row in answers))
    assert test["f1"] == pytest.approx((16 * test["has_answer_f1"] + 8 * test["no_answer_f1"]) / 24)
    assert all((row["null_margin"] > 0) == (row["prediction"] == "") for row in answers)
    assert result["majority"] == pytest.approx(8 / 24)
    assert test["f1"] > 0.6


def test_the_best_threshold_is_of_selection_and_named_so(done_v2: Done, task_v2: QATask) -> None:
    result, folder = done_v2
    selection, test = result["metrics"]["selection"], result["metrics"]["test"]
    threshold = selection["best_null_threshold"]
    assert "best_null_threshold" not in test
    assert "f1_at_selection_threshold" not in selection
    margins = [row["null_margin"] for row in answers_in(folder, "selection")]
    assert threshold in margins or threshold < min(margins)
    # Where a question was answered anyway, its answer does not hang on the threshold.
    answers = answers_in(folder, "test")
    if threshold <= 0:
        said = [row["prediction"] if row["null_margin"] <= threshold else "" for row in answers]
        expected = recomputed(official.v2, said, task_v2.test)
        assert test["f1_at_selection_threshold"] == pytest.approx(expected["f1"])


def test_a_null_threshold_of_the_run_decides_what_is_answered(
    settings: RunConfig, task_v2: QATask, tmp_path: Path
) -> None:
    silent = replace(settings, epochs=1, doc_stride=8, null_threshold=-1e6)
    result, folder = run(silent, task_v2, tmp_path)
    assert {row["prediction"] for row in answers_in(folder, "test")} == {""}
    assert result["metrics"]["test"]["f1"] == pytest.approx(result["majority"])


def test_groups_of_questions_are_averaged_unweighted(
    settings: RunConfig, task: QATask, tmp_path: Path
) -> None:
    names = ["few"] * 4 + ["many"] * 20
    grouped = replace(task, test=task.test.add_column("group", names))
    result, folder = run(replace(settings, epochs=1), grouped, tmp_path)
    said = [row["prediction"] for row in answers_in(folder, "test")]
    few = recomputed(official.v1, said[:4], task.test.select(range(4)))
    many = recomputed(official.v1, said[4:], task.test.select(range(4, 24)))
    assert result["by_group"]["test"] == {"few": pytest.approx(few), "many": pytest.approx(many)}
    assert result["metrics"]["test"]["f1"] == pytest.approx((few["f1"] + many["f1"]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_learns_questions_and_scores_the_same_when_loaded(
    settings: RunConfig, task: QATask, tmp_path: Path, model: Path, method: str
) -> None:
    if method == "corda":
        pytest.importorskip("attr")  # which PEFT imports for it
    rate = 5e-3 if method == "full" else 3e-2
    # In bf16 two answers may tie, which are then told apart by how the rows were batched.
    tried = replace(settings, method=method, rank=4, lr=rate, epochs=2, precision="fp32")
    result, folder = run(tried, task, tmp_path)
    losses = [entry["loss"] for entry in result["history"][1:]]
    assert losses[-1] < losses[0]
    base = AutoModelForQuestionAnswering.from_pretrained(model)
    tuned = load(base, folder / "adapter").eval()
    own = AutoTokenizer.from_pretrained(model)
    some = task.test.select(range(8))
    written = [row["prediction"] for row in answers_in(folder, "test")]
    assert [alone(tuned, own, row) for row in some] == written[:8]


def kind(settings: RunConfig, task: QATask) -> QuestionAnswering:
    found = kind_of(task, settings)
    assert isinstance(found, QuestionAnswering)
    return found


def test_windows_are_padded_on_the_right_whichever_side_the_tokenizer_pads(
    settings: RunConfig, task: QATask
) -> None:
    answering = kind(settings, task)
    base, own = answering.load()
    rows = list(answering.encode(task.test, own).take(6))
    right = answering.collator(own, base)(rows)
    own.padding_side = "left"
    left = answering.collator(own, base)(rows)
    assert torch.equal(left["input_ids"], right["input_ids"])
    assert right["attention_mask"][:, 0].all()
    assert not right["attention_mask"].all()
    assert set(right) == {
        *("input_ids", "token_type_ids", "attention_mask"),
        *("start_positions", "end_positions"),
    }


def test_outputs_that_are_no_numbers_end_the_run(settings: RunConfig, task: QATask) -> None:
    answering = kind(settings, task)
    _, own = answering.load()
    encoded = answering.encode(task.test, own)
    broken = np.full((len(encoded), 24), np.nan, dtype=np.float32)
    labels = tuple(np.asarray(encoded[name][:]) for name in ("start_positions", "end_positions"))
    along = answering.scorer(task.test, encoded)
    with pytest.raises(DivergedError):
        along(EvalPrediction(predictions=(broken, broken), label_ids=labels))


def test_predictions_in_an_unknown_order_are_never_scored(
    settings: RunConfig, task: QATask
) -> None:
    answering = kind(settings, task)
    _, own = answering.load()
    encoded = answering.encode(task.test, own)
    logits = np.zeros((len(encoded), 24), dtype=np.float32)
    labels = [np.asarray(encoded[name][:]) for name in ("start_positions", "end_positions")]
    shuffled = np.random.default_rng(0).permutation(len(encoded))
    along = answering.scorer(task.test, encoded)
    with pytest.raises(RuntimeError, match="another order"):
        along(
            EvalPrediction(
                predictions=(logits, logits), label_ids=tuple(one[shuffled] for one in labels)
            )
        )


@needs_real
@pytest.mark.slow
def test_a_real_encoder_learns_real_questions(tmp_path: Path) -> None:
    task = load_squad_v1(data=REAL)
    short = task.train.filter(lambda row: len(row["context"]) < 350).take(192)
    task = replace(
        task, train=short, selection=short.take(32), test=task.test.shuffle(seed=0).take(48)
    )
    config = RunConfig(task="squad_v1", lr=5e-3, epochs=3, evaluations=3)
    result, folder = run(config, task, tmp_path)
    losses = [entry["loss"] for entry in result["history"][1:]]
    assert result["step0_deviation"] == 0.0
    assert losses[-1] < 0.8 * losses[0]
    said = [row["prediction"] for row in answers_in(folder, "test")]
    assert result["metrics"]["test"] == pytest.approx(recomputed(official.v1, said, task.test))
