"""Settings: ranges, and the name of the folder that they make."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.training import RunConfig
from ailora.lab.training.settings import QA, Generation

OTHER: dict[str, Any] = {
    "method": "lora",
    "model": "other",
    "task": "other.csv",
    "data": "data",
    "rank": 4,
    "alpha": 16,
    "dropout": 0.1,
    "base": "folded",
    "lr_mode": "baked",
    "ranks": {"q": 4},
    "bottleneck": 32,
    "vera_rank": 64,
    "lr": 1e-3,
    "epochs": 3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "warmup_ratio": 0.1,
    "weight_decay": 0.1,
    "max_length": 64,
    "limit": 10,
    "eval_limit": 10,
    "evaluations": 3,
    "monitor_rows": 10,
    "early_stopping": 2,
    "precision": "fp32",
    "seed": 1,
    "generation": Generation(loss_on="sequence"),
    "qa": QA(doc_stride=64),
    "text": ("a", "b"),
    "label": "y",
    "dev": "dev.csv",
    "test": "test.csv",
    "regression": True,
    "metrics": ("f1",),
    "on_broken": "skip",
    "train_file": "math10k.json",
    "tests": ("svamp",),
}


def test_every_field_is_tried_below() -> None:
    assert OTHER.keys() == {field.name for field in fields(RunConfig)}


def test_where_equal_data_lies_makes_no_other_run() -> None:
    here, there = RunConfig(data="here"), RunConfig(data="there")
    assert here.run_id("movies", "rows") == there.run_id("movies", "rows")


@pytest.mark.parametrize("name", sorted(OTHER.keys() - {"data"}))
def test_a_changed_field_is_another_run(name: str) -> None:
    usual, changed = RunConfig(), replace(RunConfig(), **{name: OTHER[name]})
    assert usual.run_id("movies", "data") != changed.run_id("movies", "data")


def test_other_data_is_another_run() -> None:
    assert RunConfig().run_id("movies", "data") != RunConfig().run_id("movies", "other data")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"epochs": 2}, {"epochs": 2.0}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"alpha": 16}, {"alpha": 16.0}),
        ({"weight_decay": 0}, {"weight_decay": 0.0}),
        ({"text": ["a", "b"]}, {"text": ("a", "b")}),
    ],
)
def test_equal_settings_are_one_run_however_they_are_written(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert RunConfig(**one).run_id("t", "d") == RunConfig(**other).run_id("t", "d")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("epochs", 0),
        ("epochs", float("nan")),
        ("rank", 0),
        ("batch_size", 0),
        ("micro_batch_size", 0),
        ("micro_batch_size", 5),
        ("max_length", 0),
        ("limit", 0),
        ("eval_limit", 0),
        ("evaluations", 0),
        ("monitor_rows", 0),
        ("early_stopping", 0),
        ("alpha", 0),
        ("alpha", float("nan")),
        ("dropout", 1),
        ("dropout", -0.1),
        ("base", "floating"),
        ("lr_mode", "baking"),
        ("warmup_ratio", 1),
        ("weight_decay", -1),
        ("weight_decay", float("inf")),
        ("precision", "fp8"),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_a_value_out_of_range_is_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig(**{name: value})
    message = str(caught.value)
    assert "\n" not in message
    assert f"{name}=" in message
    assert repr(value) in message or repr(float(value)) in message
