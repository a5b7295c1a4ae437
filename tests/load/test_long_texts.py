"""Texts beyond what a model reads: cut with a note, or refused in one line before training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from ailora.errors import UserError
from ailora.lab.tasks import load_task
from ailora.lab.training import RunConfig, train
from ailora.lab.training.kinds import kind_of
from ailora.lab.training.model import check_length
from tests.conftest import FILLER, one_thread, tokenizer, write_csv

SMALL: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}


@pytest.fixture
def long_texts(tmp_path: Path) -> Path:
    """Every fourth text has three hundred words, the model 160 places."""
    rows = [
        (" ".join(FILLER * (25 if number % 4 == 0 else 1)), ("pos", "neg")[number % 2])
        for number in range(40)
    ]
    return write_csv(tmp_path / "data" / "train.csv", ("text", "label"), rows).parent


def test_long_texts_are_cut_and_counted(
    tiny_model: Path, long_texts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = RunConfig(
        model=str(tiny_model), task=str(long_texts), rank=2, epochs=1, batch_size=8, max_length=160
    )
    task = load_task(config.task)
    with one_thread(), caplog.at_level(logging.WARNING):
        result = train(config, task, tmp_path / "out")
    assert result["metrics"]["test"]["accuracy"] >= 0
    long = sum(len(text.split()) > 158 for text in task.train["text"])
    assert f"{long} of {len(task.train)} rows lose tokens: they have more than max_length=160" in (
        caplog.text
    )


def test_texts_that_fit_are_not_spoken_of(
    tiny_model: Path, reviews: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = RunConfig(model=str(tiny_model), task=str(reviews))
    kind = kind_of(load_task(config.task), config)
    kind.encode(kind.task.train, tokenizer())
    assert "lose tokens" not in caplog.text


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "xlm-roberta", "camembert", "gpt2"])
def test_the_longest_row_that_is_let_through_is_the_longest_that_the_model_reads(
    family: str,
) -> None:
    config = hf.AutoConfig.for_model(family, **SMALL)
    model = hf.AutoModel.from_config(config).eval()
    words = tokenizer()
    allowed = max(n for n in range(30, 50) if _passes(n, config, words))

    def read(tokens: int) -> None:
        model(input_ids=torch.full((1, tokens), 5))

    read(allowed)
    with pytest.raises((IndexError, RuntimeError)):
        read(allowed + 1)


def _passes(length: int, config: Any, words: Any) -> bool:
    try:
        check_length(length, config, words)
    except UserError as error:
        assert "\n" not in str(error)
        return False
    return True
