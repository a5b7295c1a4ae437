"""Frozen weights that are cast once: what is computed is the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.casting import frozen_weights_cast_once


class Casts(TorchDispatchMode):  # type: ignore[misc]
    """Counts casts of matrices of a shape."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and tuple(args[0].shape) == self.shape:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def model() -> nn.Sequential:
    """A frozen layer, 5 x 3, below one that trains."""
    torch.manual_seed(0)
    found = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
    found[0].requires_grad_(False)
    return found


def computed(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        found: Tensor = model(x)
    return found.detach()


def casts_of(model: nn.Module, x: Tensor) -> int:
    with Casts((5, 3)) as casts:
        computed(model, x)
        computed(model, x)
    return casts.count


def test_a_frozen_weight_is_cast_once_and_gives_the_same(model: nn.Sequential) -> None:
    x, own = torch.randn(4, 3), model[0].weight
    expected, plain = computed(model, x), model(x)
    assert casts_of(model, x) == 2
    with frozen_weights_cast_once(model):
        assert torch.equal(computed(model, x), expected)
        assert casts_of(model, x) == 0
        assert torch.equal(model(x), plain), "without autocast it is the weight itself"
        assert model[0].weight is own
    assert casts_of(model, x) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.add_(1),
        lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight + 1)),
        lambda layer: layer.load_state_dict({"weight": layer.weight + 1, "bias": layer.bias}),
    ],
)
def test_a_weight_that_changes_counts(
    change: Callable[[nn.Linear], Any], model: nn.Sequential
) -> None:
    x = torch.randn(4, 3)
    before = computed(model, x)
    with frozen_weights_cast_once(model):
        computed(model, x)
        with torch.no_grad():
            change(model[0])
        found = computed(model, x)
    assert torch.equal(found, computed(model, x))
    assert not torch.equal(found, before)


def test_a_layer_that_raised_has_its_weight_again(model: nn.Sequential) -> None:
    own = model[0].weight
    with frozen_weights_cast_once(model):
        with pytest.raises(RuntimeError):
            computed(model, torch.randn(4, 7))
        assert model[0].weight is own
        assert torch.equal(computed(model, torch.ones(1, 3)), computed(model, torch.ones(1, 3)))
    assert own.dtype == torch.float32


@pytest.mark.parametrize("method", ["ailora", "lora", "full", "dora"])
def test_a_run_in_bf16_ends_the_same(
    method: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    config = replace(config, method=method, precision="bf16", epochs=1)
    found = train(config, task, tmp_path / "once")
    anew = train(config, task, tmp_path / "anew", callbacks=[TrainerCallback()])
    assert found["metrics"] == anew["metrics"]
    weights = [
        path.read_bytes()
        for out in ("once", "anew")
        for path in (tmp_path / out).glob("*/adapter/*model.safetensors")
    ]
    assert len(weights) == 2
    assert weights[0] == weights[1]
