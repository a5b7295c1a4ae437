"""Precision, and training that ends in NaN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ailora.errors import UserError
from ailora.lab.methods.table import Build
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train, trainer
from ailora.lab.training.machine import computes_bf16_natively
from ailora.lab.training.results import DivergedError
from tests.lab.training.building import build_through


def dtypes_of_attention(config: RunConfig, task: TextTask, out: Path) -> set[torch.dtype]:
    """The dtypes in which a projection gave its outputs during training steps."""
    seen: set[torch.dtype] = set()

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if module.training:
            seen.add(output.dtype)

    def watched(build: Build, model: nn.Module, *rest: Any) -> Any:
        adapted = build(model, *rest)
        adapted.get_submodule(
            "base_model.model.bert.encoder.layer.0.attention.self.query"
        ).register_forward_hook(watch)
        return adapted

    with pytest.MonkeyPatch.context() as patch:
        build_through(patch, watched)
        result = train(config, task, out)
    assert result["step0_deviation"] == 0.0
    return seen


@pytest.mark.parametrize("native", [False, True])
def test_auto_takes_bf16_exactly_where_it_is_native(
    native: bool, config: RunConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "computes_bf16_natively", lambda: native)
    seen = dtypes_of_attention(replace(config, epochs=0.5), task, tmp_path)
    assert seen == {torch.bfloat16 if native else torch.float32}


@pytest.mark.parametrize(("asked", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_precision_asked_for_is_used(
    asked: Any, dtype: torch.dtype, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    assert dtypes_of_attention(replace(config, epochs=0.5, precision=asked), task, tmp_path) == {
        dtype
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="about processors")
def test_bf16_is_native_where_torch_or_the_processor_says_so() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("no /proc/cpuinfo to compare with")
    words = set(flags.read_text(encoding="utf-8").split())
    assert computes_bf16_natively() is bool(words & {"avx512_bf16", "amx_tile"})


def test_a_diverged_loss_ends_the_run_with_one_line(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"training diverged: .*lower the learning rate") as caught:
        train(replace(config, lr=1e30), task, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*/result.json"))


def test_outputs_that_are_not_numbers_end_the_run(
    config: RunConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(build: Build, model: nn.Module, *rest: Any) -> Any:
        adapted = build(model, *rest)
        with torch.no_grad():
            next(p for p in adapted.parameters() if p.requires_grad).fill_(float("nan"))
        return adapted

    build_through(monkeypatch, broken)
    with pytest.raises(DivergedError, match="outputs are not finite"):
        train(config, task, tmp_path)
