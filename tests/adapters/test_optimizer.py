from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.errors import UserError
from tests.adapters.models import batch, encoder, logits, sentences, tiny, train

WARNING = "this optimiser trains all roles at one rate"


def rate_of(optimizer: Optimizer, model: nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def decay_of(optimizer: Optimizer, model: nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def ailora_model(**fields: object) -> nn.Module:
    return ailora.get_peft_model(tiny(), AILoRAConfig(r=2, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["anchored", "folded"])
def test_every_trainable_parameter_is_in_one_group_at_its_roles_rate(base: str) -> None:
    roles = {
        "q": Role(init="principal"),
        "k": Role(init="gaussian", lr_ratio=0.5),
        "v": Role(init="minor", lr_ratio=2),
    }
    model = ailora_model(base=base, roles=roles, task_type="SEQ_CLS")
    optimizer = ailora.create_optimizer(model, lr=0.1)
    rates = rate_of(optimizer, model)
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(rates) == sorted(trainable)
    assert len(listed) == len(trainable)
    for name, rate in rates.items():
        ratio = 0.5 if ".key." in name else 2 if ".value." in name else 1
        assert rate == pytest.approx(0.1 * ratio), name
    assert sum("classifier" in name for name in rates) == 2


def test_decay_spares_what_trainer_spares() -> None:
    model = ailora_model(modules_to_save=["pooler", "LayerNorm"])
    optimizer = ailora.create_optimizer(model, lr=0.1, weight_decay=0.3)
    decays = decay_of(optimizer, model)
    trainers = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    assert {name for name, value in decays.items() if value} == trainers & set(decays)
    assert set(decays.values()) == {0.0, 0.3}
    assert all(value == 0.3 for name, value in decays.items() if "lora_" in name)


def test_other_optimisers_and_their_options_pass_through() -> None:
    model = ailora_model()
    optimizer = ailora.create_optimizer(model, SGD, lr=0.5, momentum=0.9)
    assert type(optimizer) is SGD
    assert {(group["lr"], group["momentum"]) for group in optimizer.param_groups} == {
        (0.5, 0.9),
        (1.0, 0.9),
    }


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf"), "1e-3"])
def test_a_rate_that_is_not_positive_is_refused(lr: float) -> None:
    with pytest.raises(UserError, match=r"^lr=.*: must be a positive number"):
        ailora.create_optimizer(ailora_model(), lr=lr)


def test_a_model_with_nothing_to_train_is_refused_with_the_way_out() -> None:
    model = ailora_model()
    model.requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameter; load it with is_trainable=True"):
        ailora.create_optimizer(model, lr=0.1)


def test_schedulers_scale_every_group_alike() -> None:
    model = ailora_model()
    optimizer = ailora.create_optimizer(model, lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    train(model, batch(model), 1, optimizer)
    scheduler.step()
    assert sorted({round(rate, 9) for rate in rate_of(optimizer, model).values()}) == [0.05, 0.1]


def test_a_role_at_a_quarter_of_the_rate_moves_a_quarter_as_far() -> None:
    """Adam's first step has the size of the rate, whatever the gradient."""
    model = ailora_model(
        roles={"q": Role(init="principal"), "v": Role(init="minor", lr_ratio=0.25)}
    )
    train(model, batch(model), 1, ailora.create_optimizer(model, lr=1e-3, eps=1e-16))
    moved = {
        name.split(".lora_")[0].rpartition(".")[2]: float(value.detach().abs().max())
        for name, value in model.named_parameters()
        if "delta" in name
    }
    assert moved["query"] == pytest.approx(1e-3)
    assert moved["value"] == pytest.approx(2.5e-4)


def warnings_of(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.message.startswith(WARNING) for record in caplog.records)


def plain(model: nn.Module, lr: float = 1e-3) -> Optimizer:
    return AdamW([value for value in model.parameters() if value.requires_grad], lr=lr)


def test_a_plain_optimiser_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = ailora_model()
    optimizer = plain(model)
    assert warnings_of(caplog) == 0
    train(model, batch(model), 3, optimizer)
    assert warnings_of(caplog) == 1
    train(model, batch(model), 1, plain(model))
    assert warnings_of(caplog) == 1


def test_warm_up_does_not_hide_a_plain_optimiser(caplog: pytest.LogCaptureFixture) -> None:
    roles = {"q": Role(init="principal", lr_ratio=3), "v": Role(init="minor", lr_ratio=3)}
    for heard, model in enumerate((ailora_model(), ailora_model(roles=roles))):
        optimizer = plain(model)
        LambdaLR(optimizer, lambda step: step / 10)
        train(model, batch(model), 1, optimizer)
        assert warnings_of(caplog) == heard + 1


def test_one_ratio_for_every_role_is_ignored_by_a_plain_optimiser_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    roles = {"q": Role(init="principal", lr_ratio=3), "v": Role(init="minor", lr_ratio=3)}
    model = ailora_model(roles=roles)
    train(model, batch(model), 1, ailora.create_optimizer(model, lr=1e-3))
    assert warnings_of(caplog) == 0
    model = ailora_model(roles=roles)
    train(model, batch(model), 1, plain(model))
    assert warnings_of(caplog) == 1


@pytest.mark.parametrize(
    ("fields", "ours"),
    [
        ({}, True),
        ({"lr_mode": "baked"}, False),
        ({"roles": presets.pissa().roles}, False),
    ],
)
def test_no_warning_where_the_rates_are_right(
    caplog: pytest.LogCaptureFixture, fields: dict[str, object], ours: bool
) -> None:
    model = ailora_model(**fields)
    optimizer = ailora.create_optimizer(model, lr=1e-3) if ours else plain(model)
    train(model, batch(model), 2, optimizer)
    assert warnings_of(caplog) == 0


def test_another_models_optimiser_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    model, other = ailora_model(), nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    plain(other).step()
    assert warnings_of(caplog) == 0
    train(model, batch(model), 1, plain(model))
    assert warnings_of(caplog) == 1


def test_several_watched_models_do_not_disturb_each_others_steps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = [ailora_model() for _ in range(3)]
    for model in models[:2]:
        train(model, batch(model), 2, plain(model))
    assert warnings_of(caplog) == 2
    before = logits(models[2], batch(models[2]))
    train(models[2], batch(models[2]), 1)
    assert not torch.equal(logits(models[2], batch(models[2])), before)


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "Adam8bit"])
def test_8_bit_optimisers_train_every_role_at_its_rate(name: str) -> None:
    kind = getattr(pytest.importorskip("bitsandbytes").optim, name)
    model = ailora.get_peft_model(encoder(), presets.ailora(16))
    optimizer = ailora.create_optimizer(model, kind, lr=1e-3)
    losses = train(model, sentences(labels=True), 4, optimizer)
    assert losses[-1] < losses[0]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 2e-3]
    states = [state["state1"] for state in optimizer.state.values()]
    assert len(states) == 24 and {state.dtype for state in states} == {torch.uint8}
