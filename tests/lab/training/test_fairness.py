"""Methods with one seed differ in the factors' start and the roles' rates, and in nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DataCollatorWithPadding

from ailora.lab.methods.table import STARTS, Build
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.trainer import LengthGroupedOrder
from tests.lab.training.building import build_through


def seen_by(config: RunConfig, task: TextTask, out: Path) -> dict[str, Any]:
    """Every batch in order, the random state after every step, the head's start, the budget."""
    batches: list[Any] = []
    states: list[bytes] = []
    heads: list[torch.Tensor] = []
    collate = DataCollatorWithPadding.__call__

    def record(self: DataCollatorWithPadding, features: Any) -> Any:
        batch = collate(self, features)
        batches.append((batch["input_ids"].tolist(), batch["labels"].tolist()))
        return batch

    def record_head(build: Build, model: nn.Module, *rest: Any) -> Any:
        heads.append(model.get_parameter("classifier.weight").detach().clone())
        return build(model, *rest)

    def record_state(step: int, steps: int, what: str) -> None:
        if what == "training":
            states.append(torch.get_rng_state().numpy().tobytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataCollatorWithPadding, "__call__", record)
        build_through(patch, record_head)
        result = train(config, task, out, on_progress=record_state)
    return {
        "batches": batches,
        "random states": states,
        "head": heads[0].tolist(),
        "parameters": result["parameters"],
        "steps": [line["step"] for line in result["history"]],
    }


@pytest.fixture(scope="module")
def dropping(config: RunConfig) -> RunConfig:
    return replace(config, lora_dropout=0.1)


@pytest.fixture(scope="module")
def lora(
    dropping: RunConfig, task: TextTask, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return seen_by(replace(dropping, method="lora"), task, tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("method", sorted({*STARTS} - {"lora"}))
def test_methods_share_batches_dropout_head_and_budget(
    method: str, dropping: RunConfig, task: TextTask, lora: dict[str, Any], tmp_path: Path
) -> None:
    seen = seen_by(replace(dropping, method=method), task, tmp_path)
    assert len(lora["random states"]) == 18
    assert len(set(lora["random states"])) == 18, "dropout must draw in every step"
    for what, value in lora.items():
        assert seen[what] == value, what


def test_another_seed_has_other_batches_and_another_head(
    dropping: RunConfig, task: TextTask, lora: dict[str, Any], tmp_path: Path
) -> None:
    seen = seen_by(replace(dropping, method="lora", seed=1), task, tmp_path)
    for what in ("batches", "random states", "head"):
        assert seen[what] != lora[what], what


def test_the_order_has_every_row_once_and_differs_by_epoch_and_seed() -> None:
    lengths = [length % 17 + 1 for length in range(100)]
    orders = {}
    for seed in (0, 1):
        order = LengthGroupedOrder(lengths, 8, seed)
        for epoch in (0, 1):
            order.set_epoch(epoch)
            orders[seed, epoch] = list(order)
            torch.rand(3)  # noise in the global state, which must not matter
            assert list(order) == orders[seed, epoch]
    assert all(sorted(order) == list(range(100)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = torch.randint(1, 60, (400,), generator=torch.Generator().manual_seed(0)).tolist()

    def padding(order: list[int]) -> int:
        batches = [[lengths[i] for i in order[k : k + 8]] for k in range(0, 400, 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(list(LengthGroupedOrder(lengths, 8, 0))) < 0.2 * padding(list(range(400)))
