"""Every method, stopped at a step and resumed, is the undisturbed run to the bit, in all its state.

Weights, optimiser, scheduler, random states and the rows of every step.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

from ailora.lab.methods.table import METHODS
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.termination import Terminated
from tests.lab.training.launching import launched, result_of, trained, weights_of
from tests.lab.training.test_termination import Terminating

STEPS = 12
FOLDED = ("pissa", "milora", "ailora", "reailora")
QUICK = {("ailora", True), ("ailora", False), ("full", True)}  # the others take a minute together
EVERY = [
    pytest.param(name, anchored, marks=() if (name, anchored) in QUICK else pytest.mark.slow)
    for name in METHODS
    for anchored in ((True, False) if name in FOLDED else (True,))
]


class Watcher(TrainerCallback):
    """The rows of each step, and everything that training has at its end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows: list[Any] = []
        self.state: dict[str, Any] = {}
        inner = Trainer.training_step

        def step(trainer: Trainer, model: Any, inputs: Any, *rest: Any) -> Any:
            self.rows.append(inputs["input_ids"].tolist())
            return inner(trainer, model, inputs, *rest)

        patch.setattr(Trainer, "training_step", step)

    def on_train_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        self.state = {
            "weights": {name: value.clone() for name, value in model.state_dict().items()},
            "optimizer": optimizer.state_dict(),
            "scheduler": lr_scheduler.state_dict(),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),
            "python": random.getstate(),
        }


def same(one: Any, other: Any) -> bool:
    """Equal to the bit and in type, through dictionaries and lists."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def watched(config: RunConfig, task: TextTask, out: Path, stop: int | None = None) -> Watcher:
    with pytest.MonkeyPatch.context() as patch:
        watcher = Watcher(patch)
        more = [Terminating("on_step_begin", stop - 1)] if stop else []
        try:
            train(config, task, out, resume=True, callbacks=[watcher, *more])
        except Terminated:
            assert stop is not None
            assert len(watcher.rows) == stop
    return watcher


def check(config: RunConfig, task: TextTask, out: Path, stops: list[int]) -> None:
    whole = watched(config, task, out / "whole")
    assert len(whole.rows) == STEPS
    for stop in stops:
        rows = watched(config, task, out / str(stop), stop).rows
        rest = watched(config, task, out / str(stop))
        assert [*rows, *rest.rows] == whole.rows
        for name, value in whole.state.items():
            assert same(value, rest.state[name]), f"stopped at {stop}: {name} differs"


@pytest.fixture(scope="module")
def asked(config: RunConfig) -> RunConfig:
    """Two epochs of six steps, dropout, weight decay and warm-up; evaluated every third step."""
    return replace(
        config,
        epochs=2,
        evaluations=4,
        lora_dropout=0.1,
        weight_decay=0.01,
        warmup_steps=3,
        vera_rank=8,
        bottleneck=4,
    )


@pytest.mark.parametrize(("method", "anchored"), EVERY)
def test_every_method_resumes_to_the_same_state(
    method: str, anchored: bool, asked: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    stop = random.Random(f"{method} {anchored}").randint(1, STEPS - 1)  # noqa: S311
    dropout = asked.lora_dropout if anchored and method not in ("mica", "vera") else 0.0
    rate = 1e-3 if method == "full" else asked.lr
    settings = replace(asked, method=method, anchored=anchored, lora_dropout=dropout, lr=rate)
    check(settings, task, tmp_path, [stop])


@pytest.mark.slow
@pytest.mark.parametrize("anchored", [True, False])
def test_it_may_be_stopped_at_any_step(
    anchored: bool, asked: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    dropout = 0.1 if anchored else 0.0
    settings = replace(asked, method="ailora", anchored=anchored, lora_dropout=dropout)
    check(settings, task, tmp_path, list(range(1, STEPS)))


def test_a_state_that_differs_in_one_bit_is_seen() -> None:
    value = {"exp_avg": [torch.ones(3)]}
    other = {
        "exp_avg": [torch.tensor([1.0, 1.0, torch.nextafter(torch.ones(()), torch.zeros(()))])]
    }
    assert same(value, {"exp_avg": [torch.ones(3)]})
    assert not same(value, other)
    assert not same(value, {"exp_avg": [torch.ones(3, dtype=torch.float64)]})


TWO = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    str(Path(__file__).with_name("stopped.py")),
)


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bits(
    tiny_model: Path, reviews: Path, tmp_path: Path
) -> None:
    """SIGTERM reaches one of the two in a step; both stop after it, and go on alike."""
    options = (
        f"--model {tiny_model} --task {reviews} --rank 2 --batch-size 8 --epochs 2 --method ailora"
    )
    whole = trained(tmp_path / "whole", options, *TWO)
    cut = launched(tmp_path / "cut", options, *TWO, STOPPED_AT="4")
    assert cut.returncode != 0
    (folder,) = (tmp_path / "cut").iterdir()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint-4"]
    trained(tmp_path / "cut", f"{options} --resume", *TWO)
    assert same(weights_of(folder), weights_of(whole))
    assert result_of(folder)["metrics"] == result_of(whole)["metrics"]
    assert result_of(folder)["environment"]["processes"] == 2
