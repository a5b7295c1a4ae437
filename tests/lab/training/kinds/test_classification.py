"""What a classifier answers belongs to the row it answers, however batches were put together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from scipy import stats

from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.kinds.base import Scored
from ailora.lab.training.kinds.classification import Classification
from ailora.lab.training.trainer import build_evaluator
from tests.conftest import one_thread, sentences

ROWS = 24


def rows() -> Dataset:
    """Texts of very different lengths, in no order of length, in two groups."""
    texts = [text for text, _ in sentences(ROWS)]
    return Dataset.from_dict(
        {
            "text": texts,
            "label": [float(n) for n in range(ROWS)],
            "group": ["even" if n % 2 == 0 else "odd" for n in range(ROWS)],
        }
    )


@pytest.fixture(scope="module")
def answered(tiny_model: Path) -> tuple[Scored, list[float]]:
    """Final scores of an untrained regressor, and its answers one row at a time."""
    table = rows()
    task = TextTask(
        name="numbers",
        train=table,
        selection=table,
        test=table,
        metrics=("pearson", "spearman"),
        fingerprint="",
        labels=None,
    )
    kind = Classification(task, RunConfig(model=str(tiny_model), batch_size=4))
    with one_thread():
        model, tokenizer = kind.load()
        model.eval()
        alone = []
        for text in table["text"]:
            batch = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
            with torch.no_grad():
                alone.append(float(model(**batch).logits))
        trainer = build_evaluator(
            kind, Path("unused"), model, tokenizer, on_progress=lambda *_: None
        )
        return kind.final(trainer, table), alone


def test_each_prediction_stands_beside_its_own_row(answered: tuple[Scored, list[float]]) -> None:
    found, alone = answered
    assert [row["label"] for row in found.outputs] == rows()["label"][:]
    assert [row["predicted"] for row in found.outputs] == pytest.approx(alone, abs=1e-5)
    assert len({round(value, 5) for value in alone}) > ROWS / 2  # else any order would do


def test_groups_are_scored_on_their_own_rows(answered: tuple[Scored, list[float]]) -> None:
    found, alone = answered
    labels = rows()["label"][:]
    for first, group in enumerate(("even", "odd")):
        expected = stats.pearsonr(alone[first::2], labels[first::2]).statistic
        assert found.by_group[group]["pearson"] == pytest.approx(expected, abs=1e-4)
    both = [scores["pearson"] for scores in found.by_group.values()]
    assert found.metrics["pearson"] == pytest.approx(sum(both) / 2)


def test_each_split_is_tokenised_once_a_run(
    config: RunConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    encode = Classification.encode

    def counted(kind: Classification, rows: Dataset, tokenizer: Any) -> Dataset:
        made.append(len(rows))
        return encode(kind, rows, tokenizer)

    monkeypatch.setattr(Classification, "encode", counted)
    train(replace(config, epochs=1), task, tmp_path)
    # The 20 test rows once to measure step 0, then train (48), selection (20) and test (20).
    assert sorted(made) == [20, 20, 20, 48]
