"""Heads, modules trained in full, and dropout: as PEFT has them."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel

import ailora
from ailora import AILoRAConfig, Role
from ailora.errors import UserError
from tests.adapters.models import batch, logits, same, tiny, train


def full_modules(model: PeftModel) -> set[str]:
    return {
        name
        for name, value in model.named_parameters()
        if value.requires_grad and "modules_to_save" in name
    }


@pytest.mark.parametrize(
    "fields", [{"task_type": "SEQ_CLS"}, {"modules_to_save": ["pooler", "classifier"]}]
)
def test_the_same_modules_are_trained_and_saved_as_by_peft(
    fields: dict[str, object], tmp_path: Path
) -> None:
    stock = peft.get_peft_model(tiny(), LoraConfig(target_modules=["query", "value"], **fields))
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=2, **fields))  # type: ignore[arg-type]
    assert type(model) is type(stock)
    assert full_modules(model) == full_modules(stock) != set()
    heads = {name: value.clone() for name, value in model.state_dict().items() if "to_save" in name}
    train(model, batch(model), 2)
    after = {name: value for name, value in model.state_dict().items() if "to_save" in name}
    assert not any(torch.equal(heads[name], after[name]) for name in heads)
    for which, one in (("ours", model), ("stock", stock)):
        one.save_pretrained(tmp_path / which)
    saved = [peft.utils.load_peft_weights(str(tmp_path / which), device="cpu")
             for which in ("ours", "stock")]  # fmt: skip
    assert saved[0].keys() == saved[1].keys()
    again = PeftModel.from_pretrained(tiny(), str(tmp_path / "ours"))
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))
    assert same({k: v for k, v in again.state_dict().items() if "to_save" in k}, after)


def test_a_disabled_adapter_has_the_base_models_head() -> None:
    base = tiny()
    before = logits(base, batch(base))
    model = ailora.get_peft_model(base, AILoRAConfig(r=2, task_type="SEQ_CLS"))
    assert torch.equal(logits(model, batch(model)), before)
    train(model, batch(model), 2)
    with model.disable_adapter():
        assert torch.equal(logits(model, batch(model)), before)


def test_dropout_acts_in_training_alone() -> None:
    inputs = batch(tiny())
    config = AILoRAConfig(r=4, lora_dropout=0.5)
    model = ailora.get_peft_model(tiny(), config)
    train(model, inputs, 2)
    layers = [module for name, module in model.named_modules() if "lora_dropout.default" in name]
    assert {module.p for module in layers} == {0.5}
    still = logits(model, inputs)
    assert torch.equal(logits(model, inputs), still)
    for module in layers:
        module.train()
    first, second = logits(model, inputs), logits(model, inputs)
    assert not torch.equal(first, still)
    assert not torch.equal(first, second)


def test_anchored_dropout_leaves_step_0_where_it_was() -> None:
    base = tiny()
    before = logits(base, batch(base))
    model = ailora.get_peft_model(base, AILoRAConfig(r=4, lora_dropout=0.5))
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
    assert torch.equal(logits(model, batch(model)), before)


@pytest.mark.parametrize("whole", ["bert", "attention"])
def test_nothing_left_to_adapt_beside_what_is_trained_in_full_is_refused(whole: str) -> None:
    model = tiny()
    modules = [id(module) for module in model.modules()]
    with pytest.raises(UserError, match=r"modules_to_save .*leave nothing of the roles 'q', 'v'"):
        ailora.get_peft_model(model, AILoRAConfig(r=2, modules_to_save=["classifier", whole]))
    assert [id(module) for module in model.modules()] == modules


def adapted(model: PeftModel) -> set[str]:
    return {name for name, _ in model.named_modules() if name.endswith("lora_A.default")}


def test_a_module_is_trained_in_full_instead_of_adapted_as_in_peft() -> None:
    fields = {"modules_to_save": ["query"]}
    stock = peft.get_peft_model(tiny(), LoraConfig(target_modules=["query", "value"], **fields))
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=2, **fields))  # type: ignore[arg-type]
    assert adapted(model) == adapted(stock) != set()
    assert full_modules(model) == full_modules(stock) != set()


@pytest.mark.parametrize("fields", [{"task_type": "SEQ_CLS"}, {"modules_to_save": ["classifier"]}])
def test_a_role_named_by_hand_inside_a_head_is_refused_before_anything_changes(
    fields: dict[str, object],
) -> None:
    """RoBERTa's head has two linear layers."""
    model = tiny(family="roberta")
    modules = [id(module) for module in model.modules()]
    roles = {"q": Role(init="principal"), "o": Role(init="minor", modules=["classifier.dense"])}
    with pytest.raises(UserError, match=r"^modules_to_save has 'classifier', which classifier\.d"):
        ailora.get_peft_model(model, AILoRAConfig(r=2, roles=roles, **fields))  # type: ignore[arg-type]
    assert [id(module) for module in model.modules()] == modules
