"""Settings: ranges, and the name of the folder that they make."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any, get_args

import pytest

from ailora.errors import UserError
from ailora.lab import settings
from ailora.lab.setting_fields import RoleName
from ailora.lab.settings import SETTINGS, RunConfig, check_name, current_settings
from ailora.roles import RoleName as RoleOfTheLibrary

OTHER: dict[str, Any] = {
    "method": "lora",
    "model": "other",
    "task": "other.csv",
    "data": "data",
    "rank": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "anchored": False,
    "bake_rates": True,
    "ranks": {"q": 4},
    "directions": "random",
    "scale": "unit",
    "tol": 1e-2,
    "lr_ratio": 4.0,
    "bottleneck": 32,
    "vera_rank": 64,
    "lr": 1e-3,
    "head_lr": 1e-2,
    "loraplus_lr_ratio": 4.0,
    "epochs": 3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "warmup_ratio": 0.1,
    "warmup_steps": 10,
    "optim": "sgd",
    "report_to": ("tensorboard",),
    "logging_steps": 5,
    "weight_decay": 0.1,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 0.5,
    "max_length": 64,
    "limit": 10,
    "eval_limit": 10,
    "evaluations": 3,
    "monitor_rows": 10,
    "early_stopping": 2,
    "precision": "fp32",
    "seed": 1,
    "loss_on": "sequence",
    "max_new_tokens": 9,
    "num_beams": 2,
    "max_source_tokens": 64,
    "answer_batch_size": 8,
    "doc_stride": 64,
    "n_best": 5,
    "max_answer_length": 9,
    "null_threshold": 1.0,
    "text": ("a", "b"),
    "text_pair": "b",
    "label": "y",
    "labels": ("no", "yes"),
    "positive": "yes",
    "dev": "dev.csv",
    "test": "test.csv",
    "regression": True,
    "metrics": ("f1",),
    "on_broken": "skip",
    "train_file": "math10k.json",
    "chat_template": "mine.jinja",
    "tests": ("svamp",),
}


def test_every_field_is_tried_below() -> None:
    assert OTHER.keys() == {field.name for field in fields(RunConfig)}


SAME_WEIGHTS = {"data", "report_to", "logging_steps"}


@pytest.mark.parametrize("name", sorted(SAME_WEIGHTS))
def test_where_data_lies_and_who_watches_makes_no_other_run(name: str) -> None:
    usual, changed = RunConfig(), replace(RunConfig(), **{name: OTHER[name]})
    assert usual.run_id("movies", "rows") == changed.run_id("movies", "rows")


@pytest.mark.parametrize("name", sorted(OTHER.keys() - SAME_WEIGHTS))
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
        ({"lora_alpha": 16}, {"lora_alpha": 16.0}),
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
        ("lora_alpha", 0),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 1),
        ("tol", 0),
        ("tol", 1),
        ("lora_dropout", -0.1),
        ("anchored", "floating"),
        ("bake_rates", "baking"),
        ("warmup_ratio", 1),
        ("warmup_steps", -1),
        ("warmup_steps", 0.5),
        ("max_grad_norm", -1),
        ("optim", "galore_adamw"),
        ("optim", "lomo"),
        ("lr_scheduler_type", "reduce_lr_on_plateau"),
        ("report_to", "wandb"),
        ("logging_steps", 0),
        ("weight_decay", -1),
        ("weight_decay", float("inf")),
        ("precision", "fp8"),
        ("seed", -1),
        ("seed", 2**32),
        ("rank", "8"),
        ("rank", True),
        ("rank", 8.0),
        ("lr", "1e-3"),
        ("text", "body"),
        ("text", ["body", 1]),
        ("ranks", {"z": 4}),
        ("ranks", {"q": 0}),
        ("ranks", {"q": "4"}),
        ("regression", 1),
        ("loss_on", "prompt"),
        ("model", None),
    ],
)
def test_a_value_out_of_range_is_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig(**{name: value})
    message = str(caught.value)
    assert "\n" not in message
    assert f"{name}=" in message
    assert repr(value) in message or repr(float(value)) in message


def test_a_rate_that_is_baked_in_is_refused_with_plain_gradients() -> None:
    with pytest.raises(UserError, match="bake_rates=True with optim='sgd': a rate that is baked"):
        RunConfig(bake_rates=True, optim="sgd")


def test_every_setting_says_what_it_is_for() -> None:
    for one in SETTINGS.values():
        assert len(one.help.split()) >= 2
        assert one.help.endswith((".", "lists them."))
        assert one.group
        assert one.checked(one.default) == one.default


def test_a_role_is_what_the_library_calls_one() -> None:
    assert get_args(RoleName) == get_args(RoleOfTheLibrary)


def test_a_new_default_renames_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    old = RunConfig(rank=8, lr=1e-3)
    name = old.run_id("t", "d")
    changed = replace(SETTINGS["rank"], default=16)
    monkeypatch.setattr(settings, "SETTINGS", {**SETTINGS, "rank": changed})
    assert RunConfig(rank=8, lr=1e-3).run_id("t", "d") == name
    assert RunConfig(rank=16, lr=1e-3).run_id("t", "d") != name


def test_a_new_setting_renames_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(lr=1e-3)
    name = config.run_id("t", "d")
    monkeypatch.setattr(settings, "asdict", lambda one: {**asdict(one), "newest": "usual"})
    with_one_more = {**SETTINGS, "newest": replace(SETTINGS["label"], first="usual")}
    monkeypatch.setattr(settings, "SETTINGS", with_one_more)
    assert config.run_id("t", "d") == name
    with_one_more["newest"] = replace(SETTINGS["label"], first="other")
    assert config.run_id("t", "d") != name


def test_a_label_that_was_typed_is_kept_and_one_of_an_older_file_may_be_the_default() -> None:
    typed, unsaid = RunConfig(label="label"), RunConfig()
    assert typed.run_id("t", "d") == unsaid.run_id("t", "d")  # on data that is the same
    assert (typed.task_options()["label"], unsaid.task_options()["label"]) == ("label", None)
    assert RunConfig.from_json(asdict(typed)) == typed
    older = {name: value for name, value in asdict(typed).items() if name != "text_pair"}
    assert RunConfig.from_json(older) == unsaid
    assert RunConfig.from_json({**older, "label": "stars"}).label == "stars"
    assert RunConfig.from_json({"method": "lora"}) == RunConfig(method="lora")


def test_settings_of_older_versions_have_todays_names() -> None:
    old = {
        "method": "pissa",
        "alpha": 16.0,
        "dropout": 0.1,
        "base": "folded",
        "lr_mode": "baked",
        "generation": {"loss_on": "sequence", "num_beams": 4, "batch_size": 8},
        "qa": {"doc_stride": 64},
    }
    assert RunConfig.from_json(old) == RunConfig(
        method="pissa",
        lora_alpha=16,
        lora_dropout=0.1,
        loss_on="sequence",
        anchored=False,
        bake_rates=True,
        num_beams=4,
        answer_batch_size=8,
        doc_stride=64,
    )
    assert current_settings(asdict(RunConfig())) == asdict(RunConfig())


@pytest.mark.parametrize("table", ["generation", "qa"])
def test_a_table_of_older_settings_that_is_none_is_refused(table: str) -> None:
    with pytest.raises(UserError, match=f"{table!r} is no setting"):
        RunConfig.from_json({table: 3})


def test_an_unknown_setting_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="'lora_alfa' is no setting; did you mean 'lora_alpha'"):
        RunConfig.from_json({"lora_alfa": 8})
    with pytest.raises(UserError, match=r"\[grid\] 'x' is no setting; there are method, rank"):
        check_name("x", where="[grid] ")
