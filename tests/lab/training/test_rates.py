"""The rates of a run: the head's is its own whatever the method, and B's is a multiple of A's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from ailora.errors import UserError
from ailora.lab.methods.variants import read_variant
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train


class Rates(TrainerCallback):  # type: ignore[misc]
    """Rate of each parameter that is trained, by its name, before any schedule."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        names = {id(parameter): name for name, parameter in kwargs["model"].named_parameters()}
        for group in kwargs["optimizer"].param_groups:
            for parameter in group["params"]:
                self.found[names[id(parameter)]] = group["initial_lr"]


def rates_of(config: RunConfig, task: TextTask, out: Path) -> dict[str, float]:
    seen = Rates()
    train(replace(config, epochs=0.2), task, out, callbacks=[seen])
    return seen.found


@pytest.mark.parametrize(
    "method", ["lora", "ailora", "pissa:directions=random", "orthogonal", "full", "bitfit"]
)
def test_the_heads_rate_is_the_same_whatever_the_method_and_its_rate(
    method: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    given = replace(config, **read_variant(method), lr=1e-3)
    rates = rates_of(replace(given, head_lr=4e-3), task, tmp_path)
    head = {name: rate for name, rate in rates.items() if "classifier" in name}
    others = {rate for name, rate in rates.items() if name not in head}
    assert len(head) == 2
    assert set(head.values()) == {4e-3}
    assert others == ({1e-3, 2e-3} if method == "ailora" else {1e-3})
    moving = rates_of(given, task, tmp_path)
    assert {moving[name] for name in head} == {1e-3}


def test_lora_plus_and_the_rate_of_v_multiply(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    variant = read_variant("lora:lr_ratio=2:loraplus_lr_ratio=4")
    rates = rates_of(replace(config, **variant, lr=1e-3), task, tmp_path)
    for name, rate in rates.items():
        ratio = (2 if ".value." in name else 1) * (4 if "lora_B" in name else 1)
        assert rate == pytest.approx(1e-3 * ratio), name


def test_a_rate_of_what_is_not_trained_is_refused_before_anything_is_written(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"loraplus_lr_ratio=4.0 is not for method 'full'"):
        train(replace(config, method="full", loraplus_lr_ratio=4.0), task, tmp_path)
    assert not list(tmp_path.rglob("*.json"))
