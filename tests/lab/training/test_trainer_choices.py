"""Trainer's own choices in a run: trackers, callbacks, optimisers, schedules, warm-up, clipping."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, get_scheduler

from ailora.errors import UserError
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.sweep_file import read_sweep_file
from ailora.lab.settings import SETTINGS
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from tests.commands import Call, call, check_refused  # noqa: F401 (a fixture)

STEPS = 18  # of the fixture's run: three epochs of six


@pytest.fixture
def events() -> Callable[[Path], dict[str, dict[int, float]]]:
    """The scalars of a folder of TensorBoard events, by tag and step."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="in ailora[dev]"
    )

    def read(folder: Path) -> dict[str, dict[int, float]]:
        found = accumulator.EventAccumulator(str(folder))
        found.Reload()
        return {
            tag: {one.step: one.value for one in found.Scalars(tag)}
            for tag in found.Tags()["scalars"]
        }

    return read


class Spy(TrainerCallback):
    """Keeps what it is given, and the rate of each group at every step."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.rates: list[list[float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.given = {"args": args, **given}
        optimizer = given["optimizer"]
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: v for name, v in line.items() if name != "seconds"} for line in history]


def test_tensorboard_has_the_loss_the_scores_and_each_roles_scalars(
    config: RunConfig,
    task: TextTask,
    tmp_path: Path,
    events: Callable[[Path], dict[str, dict[int, float]]],
) -> None:
    watched = replace(config, report_to=("tensorboard",), logging_steps=4)
    result = train(watched, task, tmp_path / "watched")
    (folder,) = (tmp_path / "watched").iterdir()
    scalars = events(folder / "tensorboard")
    steps = [4, 6, 8, 12, 16, 18]  # every fourth, and those of the evaluations
    for name in ("loss", "lr/q", "lr/v", "moved/q", "moved/v", "grad_norm"):
        assert list(scalars[f"train/{name}"]) == steps
    for line in result["history"][1:]:
        assert scalars["eval/accuracy"][line["step"]] == pytest.approx(line["accuracy"])
        for name in ("lr/q", "lr/v", "moved/q", "moved/v"):
            assert scalars[f"train/{name}"][line["step"]] == pytest.approx(line[name])
    for step in steps:
        assert scalars["train/lr/v"][step] == pytest.approx(2 * scalars["train/lr/q"][step])
        assert scalars["train/lr/q"][step] == pytest.approx(scalars["train/learning_rate"][step])

    unwatched = train(config, task, tmp_path / "unwatched")
    (other,) = (tmp_path / "unwatched").iterdir()
    assert other.name == folder.name and not (other / "tensorboard").exists()
    assert unwatched["metrics"] == result["metrics"]
    for ours, theirs in zip(
        without_times(unwatched["history"]), without_times(result["history"]), strict=True
    ):
        assert ours == {name: pytest.approx(value) for name, value in theirs.items()}
    weights = [path.read_bytes() for path in tmp_path.glob("*/*/adapter/adapter_model.safetensors")]
    assert len(weights) == 2 and weights[0] == weights[1]


def test_the_last_line_has_the_movement_that_the_result_says(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    result = train(config, task, tmp_path)
    last = result["history"][-1]
    for role in "qv":
        ours = [one for one in result["updates"] if one["role"] == role]
        moved = sum(one["norm"] ** 2 for one in ours)
        sizes = sum((one["norm"] / one["relative"]) ** 2 for one in ours)
        assert last[f"moved/{role}"] == pytest.approx((moved / sizes) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"report_to": ("tensorbord",)}, r"report_to=\('tensorbord',\): tensorbord is not supp"),
        ({"report_to": ("azure_ml",)}, r"report_to=\('azure_ml',\): AzureMLCallback requires"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(
    changed: dict[str, Any], said: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        train(replace(config, **changed), task, tmp_path)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.name == "config.json"]


def test_an_optimiser_whose_package_is_not_there_is_refused(
    config: RunConfig, task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ailora.lab.training import trainer

    monkeypatch.setattr(trainer, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match=r"optim='lion_8bit': needs bitsandbytes; pip install"):
        train(replace(config, optim="lion_8bit"), task, tmp_path)
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize("optim", SETTINGS["optim"].choices)
def test_every_optimiser_trains_v_at_twice_the_rate(
    optim: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    if optim.endswith("bit"):
        pytest.importorskip("bitsandbytes")
    spy = Spy()
    result = train(replace(config, optim=optim, lr=5e-3, epochs=1), task, tmp_path, callbacks=[spy])
    optimizer = getattr(spy.given["optimizer"], "optimizer", spy.given["optimizer"])
    assert spy.given["args"].optim == optim
    assert type(optimizer).__name__.lower() in optim.replace("_", "") + "adamw" * ("ada" in optim)
    names = {id(p): name for name, p in spy.given["model"].named_parameters()}
    ratios = {
        names[id(p)]: group["initial_lr"] / 5e-3
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert all(ratio == (2 if ".value." in name else 1) for name, ratio in ratios.items())
    assert sum(".value." in name for name in ratios) == sum(".query." in name for name in ratios)
    last = result["history"][-1]
    assert last["lr/v"] == pytest.approx(2 * last["lr/q"])
    assert last["moved/q"] > 0 and last["moved/v"] > 0


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd", "lion_32bit"])
def test_v_really_moves_by_its_rate(
    optim: str, config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    """LoRA with a V of its own ratio does not exist as a method, so one step at two ratios is."""
    if optim.endswith("bit"):
        pytest.importorskip("bitsandbytes")
    moved = {}
    for lr in (1e-4, 2e-4):
        asked = replace(
            config, optim=optim, lr=lr, epochs=1 / 6, lr_scheduler_type="constant", precision="fp32"
        )
        moved[lr] = train(asked, task, tmp_path)["history"][-1]
    # The first step is the rate times what does not depend on it, and V's is twice the run's.
    for role in "qv":
        assert moved[2e-4][f"moved/{role}"] == pytest.approx(
            2 * moved[1e-4][f"moved/{role}"], rel=0.02
        )
    assert moved[1e-4]["lr/v"] == moved[2e-4]["lr/q"] == 2e-4


SHAPES = [(kind, {"warmup_ratio": 0.34}) for kind in SETTINGS["lr_scheduler_type"].choices]


@pytest.mark.parametrize(("kind", "warmup"), [*SHAPES, ("linear", {"warmup_steps": 5})])
def test_the_rate_follows_the_schedule_after_its_warm_up(
    kind: str, warmup: dict[str, Any], config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    spy = Spy()
    asked = replace(config, epochs=1, lr=1e-3, lr_scheduler_type=kind, **warmup)
    train(asked, task, tmp_path, callbacks=[spy])
    steps = 5 if "warmup_steps" in warmup else 3
    own = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_scheduler(kind, own, num_warmup_steps=steps, num_training_steps=6)
    expected = []
    for _ in range(6):
        own.step()
        expected.append(schedule.get_last_lr()[0])
        schedule.step()
    # Callbacks are called after the schedule's step or before it, by version: both are a shift.
    found = [rates[0] for rates in spy.rates]
    after = [*expected[1:], schedule.get_last_lr()[0]]
    assert found == pytest.approx(after) or found == pytest.approx(expected)
    assert all(rates[-1] == pytest.approx(2 * rates[0]) for rates in spy.rates)


def test_0_cuts_no_gradient_and_a_small_norm_does(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    ends = {
        norm: train(
            replace(config, optim="sgd", max_grad_norm=norm, epochs=1), task, tmp_path / str(norm)
        )
        for norm in (0, 1e-3, 1e6)
    }
    lines = {norm: without_times(end["history"]) for norm, end in ends.items()}
    assert lines[0] == lines[1e6] != lines[1e-3]


def test_callbacks_of_ones_own_are_called_and_may_stop_the_run(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step >= 6

    spy = Spy()
    result = train(config, task, tmp_path, callbacks=[spy, Stop()])
    assert len(spy.rates) == 6
    assert [line["step"] for line in result["history"]] == [0, 6]


def test_a_sweep_file_has_them(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        'common = {report_to = ["tensorboard"], logging_steps = 5, warmup_steps = 3, '
        'max_grad_norm = 0}\n[grid]\noptim = ["sgd", "adafactor"]\n'
        'lr_scheduler_type = ["constant", "cosine"]\n'
    )
    configs = distinct(read_sweep_file(file))
    assert [(c.optim, c.lr_scheduler_type) for c in configs] == [
        ("sgd", "constant"), ("sgd", "cosine"), ("adafactor", "constant"), ("adafactor", "cosine"),
    ]  # fmt: skip
    assert {(c.report_to, c.logging_steps, c.warmup_steps, c.max_grad_norm) for c in configs} == {
        (("tensorboard",), 5, 3, 0.0)
    }


def test_the_command_line_has_them(
    call: Call,  # noqa: F811
    config: RunConfig,
    events: Callable[[Path], dict[str, dict[int, float]]],
) -> None:
    ended = call(
        f"train --task {config.task} --model {config.model} --rank 2 --epochs 1 --batch-size 8 "
        f"--out runs --optim adafactor --lr-scheduler-type constant --warmup-steps 2 "
        "--max-grad-norm 0 --report-to tensorboard --logging-steps 2"
    )
    assert ended.code == 0, ended.err
    (folder,) = Path("runs").iterdir()
    settings = json.loads((folder / "config.json").read_text())["config"]
    assert settings["optim"] == "adafactor" and settings["report_to"] == ["tensorboard"]
    assert list(events(folder / "tensorboard")["train/lr/v"]) == [2, 4, 6]
    wrong = call(f"train --task {config.task} --out other --report-to nowhere")
    check_refused(wrong, "--report-to nowhere: nowhere is not supported, only azure_ml")
