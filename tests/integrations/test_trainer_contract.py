"""What is relied on of transformers' Trainer and of accelerate, each behaviour by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from accelerate import Accelerator
from torch.optim import AdamW
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers.trainer_pt_utils import get_parameter_names

import ailora
from ailora.adapters.factors import Factor
from ailora.adapters.optimizer import _NO_DECAY
from tests.adapters.models import batch, tiny


def rows(model: hf.PreTrainedModel) -> list[dict[str, Any]]:
    inputs = batch(model)
    count = len(inputs["labels"])
    return [{name: value[i] for name, value in inputs.items()} for i in range(count)]


def trainer(model: Any, out: Path, **more: Any) -> hf.Trainer:
    fields: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "report_to": [], "use_cpu": True}
    args = hf.TrainingArguments(str(out), **{**fields, **more.pop("args", {})})
    return hf.Trainer(model=model, args=args, train_dataset=rows(tiny(torch.float32)), **more)


def started(**fields: Any) -> Any:
    return ailora.get_peft_model(tiny(torch.float32), ailora.AILoRAConfig(r=2, **fields))


def test_trainer_steps_the_optimiser_it_is_given_in_its_own_groups(tmp_path: Path) -> None:
    model = started()
    ours = ailora.create_optimizer(model, lr=1e-3)
    run = trainer(model, tmp_path, optimizers=(ours, None))
    run.train()
    assert run.optimizer.optimizer is ours
    assert {group["initial_lr"] for group in ours.param_groups} == {1e-3, 2e-3}


def test_trainers_own_optimiser_calls_torchs_step_hooks(tmp_path: Path) -> None:
    """The anchors are put back there, and ignored rates are warned of."""
    seen: list[str] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(type(optimizer).__name__)
    )
    try:
        trainer(started(), tmp_path, args={"weight_decay": 0.1}).train()
    finally:
        handle.remove()
    assert seen == ["AdamW", "AdamW"]


def test_accelerates_optimiser_calls_the_steps_of_the_one_inside() -> None:
    model = started()
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    model, wrapped = Accelerator(cpu=True).prepare(model, optimizer)
    factor = next(m for m in model.modules() if isinstance(m, Factor) and m.side == "B")
    anchor = factor.weight[:, 2:].detach().clone()
    model(**batch(model)).loss.backward()
    wrapped.step()
    assert type(wrapped) is not AdamW
    assert torch.equal(factor.weight[:, 2:], anchor)


def test_trainer_saves_and_resumes_an_adapter_by_its_name(tmp_path: Path) -> None:
    whole = started()
    trainer(whole, tmp_path / "whole").train()
    marker = json.loads((tmp_path / "whole" / "checkpoint-1" / "ailora.json").read_text())
    assert marker["format"] == 2
    torch.manual_seed(0)
    again = started()
    run = trainer(again, tmp_path / "whole")
    run.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for name, value in whole.named_parameters():
        if "lora_" in name:
            assert torch.equal(again.get_parameter(name), value), name


def test_trainer_spares_what_we_spare_from_decay(tmp_path: Path) -> None:
    model = started()
    theirs = set(trainer(model, tmp_path).get_decay_parameter_names(model))
    assert theirs == set(get_parameter_names(model, [torch.nn.LayerNorm], _NO_DECAY))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_clipping_sees_both_halves_of_a(clip: float) -> None:
    """Documented: the norm counts A's gradient twice."""
    model = started(roles={"q": ailora.Role(init="principal")})
    model(**batch(model)).loss.backward()
    pairs = [(m.side, m.weight.grad) for m in model.modules() if isinstance(m, Factor)]
    once = sum(float((g[: len(g) // 2] if side == "A" else g).square().sum()) for side, g in pairs)
    twice = sum(float(g.square().sum()) for _, g in pairs)
    assert once < twice <= 2 * once
    found = torch.nn.utils.clip_grad_norm_(
        [m.weight for m in model.modules() if isinstance(m, Factor)], clip or float("inf")
    )
    assert float(found) == pytest.approx(twice**0.5, rel=1e-5)
