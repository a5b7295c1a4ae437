"""How much of a source is read: the run's say, the task's own, or what a row's length leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from ailora.lab.tasks import GenerationTask
from ailora.lab.training import RunConfig
from ailora.lab.training.kinds.generation import Generation as GenerationKind
from tests.writers import TEMPLATE, save_bart, save_llama

LONG = "the people said more news " * 30  # a token a word, or two


def task_of(max_source_tokens: int | None) -> GenerationTask:
    rows = Dataset.from_dict({"source": [LONG], "target": ["rain"], "references": [["rain"]]})
    return GenerationTask(
        name="news",
        train=rows,
        selection=rows,
        test=rows,
        metrics=("exact",),
        fingerprint="",
        template=TEMPLATE,
        max_new_tokens=4,
        max_source_tokens=max_source_tokens,
    )


@pytest.fixture(scope="module", params=[save_bart, save_llama], ids=["bart", "llama"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    model: Path = request.param(tmp_path_factory.mktemp("models") / "tiny")
    return RunConfig(model=str(model))


def source_tokens(config: RunConfig, own: int | None) -> int:
    """Tokens of the source in what the model reads to answer."""
    kind = GenerationKind(task_of(own), config)
    model, tokenizer = kind.load()
    beside = len(tokenizer("")["input_ids"])
    if not model.config.is_encoder_decoder:
        beside = len(tokenizer(TEMPLATE.replace("{source}", ""))["input_ids"])
    prompt = kind._prompts(tokenizer).prompt(LONG)
    (row,) = kind.encode(kind.task.train, tokenizer)
    if config.max_length is None:  # else learning leaves room for the answer
        assert row["input_ids"][: len(prompt)] == prompt
    return len(prompt) - beside


@pytest.mark.parametrize(
    ("said", "own", "kept"), [(None, 40, 40), (24, 40, 24), (60, 40, 60), (24, None, 24)]
)
def test_the_run_says_it_or_else_the_task(
    said: int | None, own: int | None, kept: int, config: RunConfig
) -> None:
    asked = replace(config, max_source_tokens=said)
    # Of an encoder-decoder the special tokens count, as in max_length.
    assert kept - 3 <= source_tokens(asked, own) <= kept


def test_a_length_that_the_run_says_goes_before_the_tasks_own(config: RunConfig) -> None:
    assert source_tokens(replace(config, max_length=50), 10) > 10
