"""A decoder learns to answer, and its run folder says what it answered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import ailora
from ailora.errors import UserError
from ailora.lab.training import RunConfig, train
from ailora.lab.training.kinds.generation import Generation as GenerationKind
from tests.lab.training.decoders import TEMPLATE, save_decoder, sums_task


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def config(decoder: Path) -> RunConfig:
    return RunConfig(
        model=str(decoder),
        method="ailora",
        rank=4,
        lr=4e-2,
        epochs=6,
        batch_size=8,
        max_length=128,
        answer_batch_size=3,
    )


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs")
    result = train(config, sums_task(), out)
    return next(out.iterdir()), result


def predictions(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / f"predictions-{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_loss_falls_and_step_0_is_the_base_model(run: tuple[Path, dict[str, Any]]) -> None:
    _, result = run
    losses = [entry["selection_loss"] for entry in result["history"]]
    assert losses[-1] < 0.7 * losses[0]
    assert result["step0_deviation"] < 1e-4


def test_what_was_generated_stands_in_the_folder_row_by_row(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = run
    task = sums_task()
    for split, rows in (("selection", task.selection), ("test", task.test)):
        kept = predictions(folder, split)
        assert [row["source"] for row in kept] == rows["source"]
        assert [row["references"] for row in kept] == rows["references"]
        assert len({row["generated"] for row in kept}) > 1
        for row in kept:
            right = row["answer"] is not None and row["answer"] == float(row["references"][0])
            assert row["number"] == float(right)
    assert [row["group"] for row in predictions(folder, "test")] == task.test["group"]
    assert "group" not in predictions(folder, "selection")[0]


def test_scores_are_means_by_group_and_the_headline_the_mean_over_groups(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = run
    kept = predictions(folder, "test")
    by_group = {
        group: sum(row["number"] for row in kept if row["group"] == group) / count
        for group, count in (("one", 5), ("two", 3))
    }
    assert {group: s["number"] for group, s in result["by_group"]["test"].items()} == by_group
    mean = (by_group["one"] + by_group["two"]) / 2
    assert result["metrics"]["test"]["number"] == pytest.approx(mean)
    assert list(result["metrics"]["test"]) == ["number", "exact"]


def test_groups_of_unequal_size_count_equally(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = GenerationKind(sums_task(), config)
    right = [f"It is {row['references'][0]}" for row in kind.task.test]
    answers = [*right[:2], "none", "It is 99", "", *right[5:]]  # two of five, three of three
    monkeypatch.setattr("ailora.lab.training.kinds.generation.generate", lambda *_, **__: answers)
    _, tokenizer = kind.load()
    scored = kind.answer(None, tokenizer, kind.task.test)
    assert {group: scores["number"] for group, scores in scored.by_group.items()} == {
        "one": 0.4,
        "two": 1.0,
    }
    assert scored.metrics["number"] == pytest.approx(0.7)
    assert [row["answer"] for row in scored.outputs[2:5]] == [None, 99.0, None]
    plain = kind.answer(None, tokenizer, kind.task.test.remove_columns("group"))
    assert plain.metrics["number"] == pytest.approx(5 / 8)
    assert plain.by_group == {}


def test_the_adapter_reloads_and_generates_the_same(
    run: tuple[Path, dict[str, Any]], config: RunConfig, decoder: Path
) -> None:
    folder, result = run
    base, kind = AutoModelForCausalLM.from_pretrained(decoder), GenerationKind(sums_task(), config)
    _, tokenizer = kind.load()
    untrained = kind.answer(base, tokenizer, kind.task.test)
    model = ailora.load_adapter(base, folder / "adapter")
    scored = kind.answer(model, tokenizer, kind.task.test)
    assert list(scored.outputs) == predictions(folder, "test")
    assert scored.metrics == result["metrics"]["test"]
    assert scored.outputs != untrained.outputs


def test_the_loss_of_a_batch_is_that_of_its_answers_or_of_all_its_tokens(config: RunConfig) -> None:
    found = {}
    for loss_on in ("answer", "sequence"):
        chosen = replace(config, loss_on=loss_on)
        kind = GenerationKind(sums_task(), chosen)
        model, tokenizer = kind.load()
        rows = kind.encode(kind.task.test, tokenizer)
        batch = kind.collator(tokenizer, model)(list(rows))
        with torch.no_grad():
            found[loss_on] = float(model.eval()(**batch).loss)
        by_hand = [answer_losses(model, row, loss_on == "answer") for row in rows]
        assert found[loss_on] == pytest.approx(float(torch.cat(by_hand).mean()), rel=1e-5)
    assert abs(found["answer"] - found["sequence"]) > 1e-3


def answer_losses(model: Any, row: dict[str, list[int]], on_answer: bool) -> torch.Tensor:
    """Loss of each learned token of one row alone, without padding."""
    ids = torch.tensor(row["input_ids"])
    with torch.no_grad():
        chances = model(ids[None]).logits[0, :-1].log_softmax(-1)
    losses = -chances[torch.arange(len(ids) - 1), ids[1:]]
    hidden = sum(label == -100 for label in row["labels"])
    assert (hidden > 0) is on_answer
    return losses[max(hidden - 1, 0) :]


def test_padding_is_on_the_right_in_training_and_out_of_the_loss(config: RunConfig) -> None:
    kind = GenerationKind(sums_task(), config)
    model, tokenizer = kind.load()
    rows = kind.encode(kind.task.test, tokenizer)
    batch = kind.collator(tokenizer, model)(list(rows))
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        assert batch["input_ids"][index, :length].tolist() == row["input_ids"]
        assert batch["attention_mask"][index].sum() == length
        assert batch["labels"][index, :length].tolist() == row["labels"]
        assert (batch["labels"][index, length:] == -100).all()
        assert row["labels"][-1] == tokenizer.eos_token_id, "the end token is learned"


def test_settings_of_the_run_go_before_the_tasks_and_headings_stop_an_answer(
    config: RunConfig,
) -> None:
    kind = GenerationKind(sums_task(), config)
    assert (kind.search.max_new_tokens, kind.search.num_beams) == (24, 1)
    assert kind.search.stop == ("### Instruction", "### Response")
    chosen = replace(config, max_new_tokens=5, num_beams=2, answer_batch_size=7)
    kind = GenerationKind(sums_task(), chosen)
    assert (kind.search.max_new_tokens, kind.search.num_beams, kind.search.batch_size) == (5, 2, 7)
    plain = replace(sums_task(), template="{source}\n")
    assert GenerationKind(plain, config).search.stop == ()
    assert "### Instruction" in TEMPLATE


def test_what_cannot_be_generated_with_is_refused_by_name(
    config: RunConfig, tiny_model: Path, decoder: Path
) -> None:
    with pytest.raises(UserError, match="bert reads both ways and writes no text"):
        GenerationKind(sums_task(), replace(config, model=str(tiny_model))).load()
    long = replace(config, max_length=250)
    with pytest.raises(UserError, match=r"max_length=250 .*max_new_tokens=24.* 256 tokens in all"):
        GenerationKind(sums_task(), long).load()
    short = GenerationKind(sums_task(), replace(config, max_length=20))
    with pytest.raises(UserError, match="sums, row 1: max_length=20"):
        short.encode(short.task.train, AutoTokenizer.from_pretrained(decoder))


@pytest.mark.parametrize(
    ("metric", "learned", "asked", "expected"),
    [
        ("number", ["It is 4", "4", "so 4.0", "9", "7"], ["4", "9", "4", "x 4"], 3 / 4),
        ("choice", ["B", "(B)", "A", "C"], ["B", "A", "the B"], 2 / 3),
        ("exact", ["yes", " yes ", "no"], ["yes", "no", "maybe", "Yes"], 1 / 4),
        ("rougeL", ["yes", "yes", "no"], ["yes", "no", "maybe"], None),
    ],
)
def test_the_commonest_training_answer_is_what_chance_scores(
    config: RunConfig, metric: str, learned: list[str], asked: list[str], expected: float | None
) -> None:
    def rows(answers: list[str]) -> Dataset:
        return Dataset.from_list(
            [{"source": f"{n}?", "target": a, "references": [a]} for n, a in enumerate(answers)]
        )

    task = replace(sums_task(), train=rows(learned), test=rows(asked), metrics=(metric,))
    assert GenerationKind(task, config).majority() == (
        None if expected is None else pytest.approx(expected)
    )


def test_the_commonest_answer_is_averaged_over_groups(config: RunConfig) -> None:
    task = sums_task()
    answers = [f"It is {5 if n < 4 else 11}" for n in range(8)]  # four of the five of one group
    test = task.test.remove_columns("references").add_column("references", [[a] for a in answers])
    fives = task.train.remove_columns("references").add_column(
        "references", [["5"]] * len(task.train)
    )
    changed = replace(task, train=fives, test=test)
    assert GenerationKind(changed, config).majority() == pytest.approx((4 / 5 + 0) / 2)
