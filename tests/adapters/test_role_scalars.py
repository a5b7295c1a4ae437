"""What a Trainer logs of each role: its rate, and how far its weights moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

import ailora
from ailora import AILoRAConfig, Role, presets

Dataset = pytest.importorskip("datasets").Dataset

ROWS = Dataset.from_list(
    [{"input_ids": row, "labels": row} for row in torch.arange(4, 16).view(2, 6).tolist() * 4]
)
STEPS, LR = 4, 5e-3
ROLES = {
    "q": Role(init="principal"),
    "k": Role(init="gaussian", lr_ratio=0.5),
    "v": Role(init="minor", lr_ratio=2.0),
}


def llama() -> hf.PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1,
            )
        )  # fmt: skip


def gpt2() -> hf.PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=16, n_embd=32, n_layer=2, n_head=4, initializer_range=0.1)
        )


def trainer_of(
    model: nn.Module, out: Path, optimizer: torch.optim.Optimizer | None = None, **more: Any
) -> hf.Trainer:
    arguments = {"max_steps": STEPS, "learning_rate": LR, "logging_steps": 1, **more}
    trainer = hf.Trainer(
        model=model,
        args=hf.TrainingArguments(
            output_dir=str(out), per_device_train_batch_size=4, lr_scheduler_type="linear",
            report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, **arguments,
        ),
        train_dataset=ROWS,
        optimizers=(optimizer, None),
    )  # fmt: skip
    ailora.log_roles(trainer)
    return trainer


def logged(trainer: hf.Trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """W of every layer that computes q, k or v, in y = W x, fp64; adapted where it is."""
    found = {}
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last in ("q_proj", "k_proj", "v_proj", "c_attn"):
            base = module.get_base_layer() if isinstance(module, LoraLayer) else module
            W = base.weight.detach().double()
            if isinstance(module, LoraLayer):
                W = W + module.get_delta_weight("default").detach().double()
            found[name.removeprefix("base_model.model.")] = W.T if last == "c_attn" else W
    return found


def dense(model: nn.Module, before: dict[str, Tensor]) -> dict[str, float]:
    """||W now - W before|| / ||W before|| of each role, from whole matrices."""
    squares: dict[str, list[Tensor]] = {}
    for name, W in weights(model).items():
        cut = W.shape[0] // 3
        alone = {name.rpartition(".")[2][0]: slice(None)}
        fused = {"q": slice(cut), "k": slice(cut, 2 * cut), "v": slice(2 * cut, None)}
        for role, rows in (fused if name.endswith("c_attn") else alone).items():
            pair = [(W - before[name])[rows].square().sum(), before[name][rows].square().sum()]
            squares.setdefault(role, []).append(torch.stack(pair))
    sums = {role: torch.stack(pairs).sum(0) for role, pairs in squares.items()}
    return {role: float((moved / whole).sqrt()) for role, (moved, whole) in sums.items()}


CASES: dict[str, tuple[Callable[[], hf.PreTrainedModel], dict[str, Any]]] = {
    "anchored": (llama, {}),
    "folded": (llama, {"anchored": False}),
    "another scale": (llama, {"lora_alpha": 12}),
    "rates baked in": (llama, {"bake_rates": True}),
    "plain LoRA": (llama, {"roles": presets.lora().roles}),
    "fused": (gpt2, {}),
    "fused and folded": (gpt2, {"anchored": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_roles_rate_and_movement_are_what_whole_matrices_say(
    case: str, tmp_path: Path
) -> None:
    make, fields = CASES[case]
    fields = {"roles": ROLES, **fields}
    base = make()
    before = {name: W.clone() for name, W in weights(base).items()}
    model = peft.get_peft_model(base, AILoRAConfig(r=3, task_type="CAUSAL_LM", **fields))
    trainer = trainer_of(model, tmp_path, ailora.create_optimizer(model, lr=LR))
    trainer.train()
    lines = logged(trainer)
    assert len(lines) == STEPS
    moved = dense(model, before)
    for role, one in fields["roles"].items():
        for step, line in enumerate(lines):
            rate = LR * (STEPS - step) / STEPS * one.lr_ratio
            assert line[f"lr/{role}"] == pytest.approx(rate)
        rel = 1e-4 if not fields.get("anchored", True) else 1e-5  # W - s B0 A0 was rounded
        assert lines[-1][f"moved/{role}"] == pytest.approx(moved[role], rel=rel)
        assert lines[-1][f"moved/{role}"] > 1e-4
    others = {name for line in lines for name in line if name.startswith(("lr/", "moved/"))}
    assert others == {f"{kind}/{role}" for kind in ("lr", "moved") for role in fields["roles"]}


def test_nothing_has_moved_before_the_first_step_and_no_rate_is_known() -> None:
    from ailora.adapters.role_scalars import RoleScalars

    model = peft.get_peft_model(llama(), AILoRAConfig(r=3))
    optimizer = ailora.create_optimizer(model, lr=LR)
    assert RoleScalars(model).now(optimizer) == {"moved/q": 0.0, "moved/v": 0.0}


def test_of_weights_without_values_no_movement_is_told() -> None:
    from ailora.adapters.role_scalars import RoleScalars

    with torch.device("meta"):
        model = peft.get_peft_model(llama(), presets.lora(3))
    assert RoleScalars(model).now(ailora.create_optimizer(model, lr=LR)) == {}


def test_a_plain_optimiser_shows_the_one_rate_that_it_has(tmp_path: Path) -> None:
    model = peft.get_peft_model(llama(), AILoRAConfig(r=3, task_type="CAUSAL_LM"))
    trainer = trainer_of(model, tmp_path)
    trainer.train()
    for line in logged(trainer):
        assert line["lr/q"] == line["lr/v"] == pytest.approx(line["learning_rate"])


def test_a_and_b_at_two_rates_are_two_lines(tmp_path: Path) -> None:
    model = peft.get_peft_model(llama(), presets.pissa(3, task_type="CAUSAL_LM"))
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=4, loraplus_lr_embedding=LR
    )
    trainer = trainer_of(model, tmp_path, optimizer)
    trainer.train()
    first = logged(trainer)[0]
    assert first["lr/q/A"] == pytest.approx(LR) and first["lr/q/B"] == pytest.approx(4 * LR)
    assert "lr/q" not in first


def test_a_stock_adapter_and_a_model_without_one_log_as_before(tmp_path: Path) -> None:
    stock = peft.get_peft_model(llama(), peft.LoraConfig(r=3, target_modules=["q_proj"]))
    for model in (stock, llama()):
        trainer = trainer_of(model, tmp_path, max_steps=1)
        trainer.train()
        assert not [name for name in logged(trainer)[0] if "/" in name]


def test_watching_changes_no_weight(tmp_path: Path) -> None:
    ends = []
    for every in (1, 100):
        model = peft.get_peft_model(llama(), AILoRAConfig(r=3, task_type="CAUSAL_LM"))
        optimizer = ailora.create_optimizer(model, lr=LR)
        trainer_of(model, tmp_path, optimizer, logging_steps=every).train()
        ends.append(peft.get_peft_model_state_dict(model))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_callbacks_hear_of_them(tmp_path: Path) -> None:
    heard: list[dict[str, float]] = []

    class Listener(hf.TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            heard.append(logs)

    model = peft.get_peft_model(llama(), AILoRAConfig(r=3, task_type="CAUSAL_LM"))
    trainer = trainer_of(model, tmp_path, ailora.create_optimizer(model, lr=LR))
    trainer.add_callback(Listener())
    trainer.train()
    assert all({"lr/v", "moved/v"} <= logs.keys() for logs in heard if "loss" in logs)
    assert "lr/v" not in heard[-1]  # the summary at the end


def test_with_plain_sgd_a_baked_in_rate_counts_twice_as_the_log_says(tmp_path: Path) -> None:
    """V's factors move as they do at four times the rate in the groups of `create_optimizer`."""
    lines = []
    for baked, ratio in ((True, 2.0), (False, 4.0)):
        roles = {"q": Role(init="principal"), "v": Role(init="minor", lr_ratio=ratio)}
        config = AILoRAConfig(r=3, roles=roles, bake_rates=baked, task_type="CAUSAL_LM")
        model = peft.get_peft_model(llama(), config)
        make = torch.optim.SGD
        optimizer = (
            make([p for p in model.parameters() if p.requires_grad], lr=0.1)
            if baked
            else ailora.create_optimizer(model, make, lr=0.1)
        )
        trainer = trainer_of(model, tmp_path, optimizer, max_steps=1, max_grad_norm=0.0)
        trainer.train()
        lines.append(logged(trainer)[0])
    for name in ("lr/q", "lr/v", "moved/q", "moved/v"):
        assert lines[0][name] == pytest.approx(lines[1][name], rel=1e-4)
