"""The real assets: what they are, and that they stay offline once cached."""

from __future__ import annotations

import csv
import gzip

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from ailora.lab import demo


@pytest.fixture(scope="module", autouse=True)
def _fetched() -> None:
    demo.encoder_dir()
    demo.movie_reviews()


@pytest.mark.usefixtures("no_subprocess")
def test_both_assets_are_cached_after_the_first_call_and_start_no_subprocess() -> None:
    assert demo.is_cached()
    assert demo.encoder_dir().is_dir()
    assert demo.movie_reviews().is_file()


def test_the_encoder_loads_and_knows_which_sentences_are_alike() -> None:
    folder = demo.encoder_dir()
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert sum(weight.numel() for weight in model.parameters()) == 22_713_216
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    alike, other = float(means[0] @ means[1]), float(means[0] @ means[2])
    assert alike > other + 0.4


def test_the_reviews_are_the_10605_rated_sentences() -> None:
    with gzip.open(demo.movie_reviews(), "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10_605
    ratings = [float(row["sentiment"]) for row in rows]
    assert min(ratings) >= -4
    assert max(ratings) <= 4
    assert 0.4 < sum(rating > 0 for rating in ratings) / len(ratings) < 0.6


def test_the_licence_of_each_asset_lies_beside_it() -> None:
    assert "MIT License" in (demo.encoder_dir() / "LICENSE").read_text(encoding="utf-8")
    beside = demo.movie_reviews().with_name("LICENSE.txt")
    assert "MIT License" in beside.read_text(encoding="utf-8")
