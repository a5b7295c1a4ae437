"""Summaries by a small BART and a small decoder: what is adapted, learned, generated, reloaded."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel
from rouge_score import rouge_scorer
from safetensors.torch import load_file

from ailora.lab.tasks import GenerationTask
from ailora.lab.tasks.generation.summaries import load_summaries
from ailora.lab.training import RunConfig, train
from tests.writers import WIDTH, document, save_bart, save_llama

RANK = 2
HEADINGS = ("### Document", "### Summary")
BLOCKS = (
    "encoder.layers.{}.self_attn",
    "decoder.layers.{}.self_attn",
    "decoder.layers.{}.encoder_attn",
)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> GenerationTask:
    """64 documents to learn from, 12 and 12 to be scored on, in files."""
    folder = tmp_path_factory.mktemp("data") / "topics"
    folder.mkdir()
    draw = random.Random(0)  # noqa: S311
    for part, count in (("train", 64), ("dev", 12), ("test", 12)):
        lines = []
        for _ in range(count):
            text, summary, topic = document(draw, "news about {}")
            row = {"document": text, "summary": summary, "references": [summary, topic]}
            lines.append(json.dumps(row))
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    return load_summaries(folder, max_new_tokens=6, num_beams=3)


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bart(tmp_path_factory.mktemp("models") / "tiny-bart")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


def settings(model: Path, task: GenerationTask) -> RunConfig:
    return RunConfig(
        model=str(model),
        task=task.name,
        rank=RANK,
        lr=2e-2,
        epochs=4,
        batch_size=8,
        max_length=48,
        precision="fp32",
    )


Run = tuple[dict[str, Any], Path, Path]  # result, folder, base model


def run_of(model: Path, task: GenerationTask, out: Path, **changes: Any) -> Run:
    result = train(replace(settings(model, task), **changes), task, out)
    (folder,) = out.iterdir()
    return result, folder, model


@pytest.fixture(scope="module")
def seq2seq(bart: Path, task: GenerationTask, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(bart, task, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def causal(decoder: Path, task: GenerationTask, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(decoder, task, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module", params=["seq2seq", "causal"])
def either(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(request.param)
    return run


def check_adapted(run: Run, block: str) -> None:
    """Q starts from the largest triplets of its weight, V from the smallest, and both moved."""
    _, folder, model = run
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    base = load_file(model / "model.safetensors")
    for layer in range(2):
        for role, part in (("q", slice(None, RANK)), ("v", slice(-RANK, None))):
            name = f"model.{block.format(layer)}.{role}_proj"
            weight = base[f"{name}.weight"].double()
            A, B = (
                adapter[f"base_model.model.{name}.lora_{factor}.weight"].double() for factor in "AB"
            )
            # The file's factors are [A0 + D_A; D_A] and [D_B, B0].
            start = B[:, RANK:] @ (A[:RANK] - A[RANK:])
            U, S, Vt = torch.linalg.svd(weight, full_matrices=False)
            expected = (U[:, part] * S[part]) @ Vt[part]
            torch.testing.assert_close(start, expected, rtol=1e-4, atol=1e-4)
            assert (B @ A).norm() > 1e-2 * weight.norm()


def test_self_attention_of_the_encoder_is_adapted_and_moves(seq2seq: Run) -> None:
    check_adapted(seq2seq, BLOCKS[0])


def test_self_attention_of_the_decoder_is_adapted_and_moves(seq2seq: Run) -> None:
    check_adapted(seq2seq, BLOCKS[1])


def test_cross_attention_of_the_decoder_is_adapted_and_moves(seq2seq: Run) -> None:
    check_adapted(seq2seq, BLOCKS[2])


def test_nothing_else_of_bart_is_adapted(seq2seq: Run) -> None:
    adapter = load_file(seq2seq[1] / "adapter" / "adapter_model.safetensors")
    blocks = [block.format(layer) for block in BLOCKS for layer in range(2)]
    assert {name.rsplit(".", 2)[0] for name in adapter} == {
        f"base_model.model.model.{block}.{role}_proj" for block in blocks for role in "qv"
    }
    counted = seq2seq[0]["parameters"]
    assert counted["adapter"] == len(blocks) * 2 * 2 * RANK * WIDTH
    assert counted["head"] == 0


def test_self_attention_of_a_decoder_alone_is_adapted_and_moves(causal: Run) -> None:
    check_adapted(causal, "layers.{}.self_attn")


def test_the_loss_falls_and_the_start_is_the_base_model(either: Run) -> None:
    result = either[0]
    losses = [entry["selection_loss"] for entry in result["history"]]
    assert len(losses) == 5
    assert losses[-1] < 0.6 * losses[0]
    assert result["step0_deviation"] == 0


def read(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "predictions-test.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def reloaded(run: Run) -> Any:
    """The run's model from its files, by transformers and PEFT alone."""
    _, folder, model = run
    config = hf.AutoConfig.from_pretrained(model)
    auto = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    return PeftModel.from_pretrained(auto.from_pretrained(model), str(folder / "adapter")).eval()


def summaries(model: Any, folder: Path, task: GenerationTask) -> list[str]:
    """One document at a time, without padding, with the task's beams.

    A decoder has the template to read, and writing one of its headings ends its summary.
    """
    words = hf.AutoTokenizer.from_pretrained(folder)
    both = model.config.is_encoder_decoder
    ends = {} if both else {"stop_strings": list(HEADINGS), "tokenizer": words}
    texts = []
    for source in task.test["source"]:
        text = source if both else task.template.format(source=source)
        batch = words(text, return_tensors="pt", add_special_tokens=both)
        batch.pop("token_type_ids", None)
        found = model.generate(
            **batch,
            num_beams=task.num_beams,
            max_new_tokens=task.max_new_tokens,
            do_sample=False,
            pad_token_id=words.pad_token_id,
            **ends,
        )
        kept = found[0] if both else found[0, batch["input_ids"].shape[1] :]
        text = words.decode(kept, skip_special_tokens=True)
        texts.append(text if both else re.split("|".join(HEADINGS), text)[0])
    return texts


def test_stock_peft_reloads_the_run_and_writes_the_same_summaries(
    either: Run, task: GenerationTask
) -> None:
    kept = [row["generated"] for row in read(either[1])]
    assert len(set(kept)) > 1
    assert summaries(reloaded(either), either[2], task) == kept


def test_the_scores_are_rouge_of_the_kept_summaries_against_the_best_reference(
    either: Run, task: GenerationTask
) -> None:
    records = read(either[1])
    assert [row["references"] for row in records] == list(task.test["references"])
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name, value in either[0]["metrics"]["test"].items():
        best = [
            max(scorer.score(ref, row["generated"])[name].fmeasure for ref in row["references"])
            for row in records
        ]
        assert value == pytest.approx(fmean(best))
        assert [row[name] for row in records] == best


def test_training_makes_better_summaries_than_the_base_model(
    either: Run, task: GenerationTask
) -> None:
    model = reloaded(either)
    with model.disable_adapter():
        before = summaries(model, either[2], task)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    scores = [
        scorer.score_multi(references, text)["rougeL"].fmeasure
        for references, text in zip(task.test["references"], before, strict=True)
    ]
    assert either[0]["metrics"]["test"]["rougeL"] > fmean(scores) + 0.2


def test_the_runs_own_search_goes_before_the_tasks(
    bart: Path, task: GenerationTask, tmp_path: Path
) -> None:
    few = replace(task, test=task.test.take(4), selection=task.selection.take(2))
    _, folder, _ = run_of(bart, few, tmp_path, epochs=1, num_beams=1, max_new_tokens=2)
    assert max(len(row["generated"].split()) for row in read(folder)) <= 2


def test_a_document_that_is_too_long_loses_its_end_and_its_summary_nothing(
    bart: Path, task: GenerationTask, tmp_path: Path
) -> None:
    cut = task.train.map(lambda row: {"source": " ".join(row["source"].split()[:3])})
    longer = cut.map(lambda row: {"source": row["source"] + " town" * 200})
    results = []
    for name, rows in (("cut", cut), ("longer", longer)):
        some = replace(task, train=rows, test=task.test.take(2), selection=task.selection.take(2))
        # Three words between the start and the end token.
        results.append(run_of(bart, some, tmp_path / name, epochs=1, max_length=5)[0])
    assert results[0]["history"][-1]["loss"] == results[1]["history"][-1]["loss"]
