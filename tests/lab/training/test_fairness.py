"""Starts with one seed differ in the factors and the roles' rates alone; methods see one order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ailora.lab.methods.table import METHODS, STARTS
from ailora.lab.methods.targets import head_parameters
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.trainer import LengthGroupedOrder, RunTrainer


def seen_by(config: RunConfig, task: TextTask, out: Path) -> dict[str, Any]:
    """What training is given: batches in order, random states, the head's start, the budget."""
    batches: list[Any] = []
    states: list[bytes] = []
    heads: list[Any] = []
    trained = RunTrainer.training_step

    def record(self: RunTrainer, model: nn.Module, inputs: Any, *rest: Any) -> torch.Tensor:
        if not heads:
            found = (value for _, value in head_parameters(model) if value.requires_grad)
            heads.extend(value.detach().tolist() for value in found)
        batches.append((inputs["input_ids"].tolist(), inputs["labels"].tolist()))
        loss = trained(self, model, inputs, *rest)
        states.append(torch.get_rng_state().numpy().tobytes())
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTrainer, "training_step", record)
        result = train(config, task, out)
    return {
        "batches": batches,
        "head": heads,
        "steps": [line["step"] for line in result["history"]],
        "random states": states,
        "parameters": result["parameters"],
    }


@pytest.fixture(scope="module")
def dropping(config: RunConfig) -> RunConfig:
    return replace(config, lora_dropout=0.1)


@pytest.fixture(scope="module")
def lora(
    dropping: RunConfig, task: TextTask, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    seen = seen_by(replace(dropping, method="lora"), task, tmp_path_factory.mktemp("lora"))
    assert len(seen["batches"]) == 18
    assert len(set(seen["random states"])) == 18, "dropout must draw in every step"
    assert [len(value) for value in seen["head"]] == [2, 2], "a weight and a bias"
    return seen


@pytest.mark.parametrize("method", sorted({*METHODS} - {"lora"}))
def test_methods_share_batches_dropout_head_and_budget(
    method: str, dropping: RunConfig, task: TextTask, lora: dict[str, Any], tmp_path: Path
) -> None:
    """Those of other layers than LoRA's draw other dropout, and see the same rows all the same."""
    seen = seen_by(replace(dropping, method=method), task, tmp_path)
    shared = [*lora] if method in STARTS else ["batches", "head", "steps"]
    for what in shared:
        assert seen[what] == lora[what], what


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
