"""Trainer's own ``optim=``: one rate for all roles, which is said; and what needs no word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import ailora
from ailora.lab.settings import SETTINGS
from tests.integrations.test_trainer import ROWS, base

WARNING = "this optimiser trains roles with different lr_ratio at one rate"
NAMES = SETTINGS["optim"].choices


def train(
    model: torch.nn.Module, out: Path, optim: str, optimizer: torch.optim.Optimizer | None = None
) -> list[dict[str, Any]]:
    """Two steps; the logs of the loss."""
    trainer = hf.Trainer(
        model=model,
        args=hf.TrainingArguments(
            output_dir=str(out), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3,
            lr_scheduler_type="constant", optim=optim, logging_steps=1, report_to=[],
            use_cpu=True, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=ROWS,
        optimizers=(optimizer, None),
    )  # fmt: skip
    ailora.log_roles(trainer)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def warned(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.message.startswith(WARNING) for record in caplog.records)


@pytest.mark.parametrize("optim", NAMES)
def test_trainers_own_optimisers_ignore_the_roles_and_it_is_said_once(
    optim: str, tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if optim.endswith("bit"):
        pytest.importorskip("bitsandbytes")
    model = ailora.get_peft_model(base(tiny_llama), ailora.AILoRAConfig(r=3))
    lines = train(model, tmp_path, optim)
    assert warned(caplog) == 1
    assert all(line["lr/q"] == line["lr/v"] == 1e-3 for line in lines)

    caplog.clear()
    baked = ailora.get_peft_model(base(tiny_llama), ailora.AILoRAConfig(r=3, bake_rates=True))
    lines = train(baked, tmp_path, optim)
    assert warned(caplog) == 0
    times = 4 if optim == "sgd" else 2  # plain gradients of A / c are c times as large
    assert all(line["lr/v"] == times * line["lr/q"] for line in lines)


def test_our_optimiser_is_right_whatever_the_name_says(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ailora.get_peft_model(base(tiny_llama), ailora.AILoRAConfig(r=3))
    optimizer = ailora.create_optimizer(model, torch.optim.SGD, lr=1e-3)
    lines = train(model, tmp_path, "adafactor", optimizer)
    assert warned(caplog) == 0
    assert all(line["lr/v"] == 2 * line["lr/q"] for line in lines)
