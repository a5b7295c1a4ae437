"""Rates by role, what weight decay leaves alone, and what another optimiser is told."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from transformers import Adafactor, Trainer

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters import peft_insides
from ailora.errors import UserError
from tests.adapters.models import (
    Q0,
    V0,
    Found,
    batch,
    encoder,
    logits,
    move,
    parts,
    sentences,
    tiny,
    train,
)

# PEFT before 0.21 does not save those of the adapted layers alone: refused.
BIASES = "lora_only" if peft_insides.saves_lora_only_biases() else "all"

WARNING = "this optimiser trains roles with different lr_ratio at one rate"


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


@pytest.mark.parametrize("anchored", [True, False])
def test_every_trainable_parameter_is_in_one_group_at_its_roles_rate(anchored: bool) -> None:
    roles = {
        "q": Role(init="principal"),
        "k": Role(init="gaussian", lr_ratio=0.5),
        "v": Role(init="minor", lr_ratio=2),
    }
    model = ailora_model(anchored=anchored, roles=roles, task_type="SEQ_CLS")
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


def test_the_head_and_all_modules_to_save_have_a_rate_of_their_own() -> None:
    model = ailora_model(task_type="SEQ_CLS", modules_to_save=["pooler"], bias=BIASES)
    rates = rate_of(ailora.create_optimizer(model, lr=0.1, head_lr=0.03), model)
    for name, rate in rates.items():
        head = ".classifier." in name or ".pooler." in name
        ratio = 2 if ".value." in name and "lora_" in name else 1
        assert rate == (0.03 if head else pytest.approx(0.1 * ratio)), name
    assert list(rates.values()).count(0.03) == 4
    assert any(name.endswith("bias") and "query" in name for name in rates)


def test_lora_plus_multiplies_the_rate_of_each_b_and_of_nothing_else() -> None:
    model = ailora_model(task_type="SEQ_CLS", lora_bias=True, bias=BIASES)
    rates = rate_of(ailora.create_optimizer(model, lr=0.1, loraplus_lr_ratio=4), model)
    for name, rate in rates.items():
        factor = "lora_" in name and not name.endswith("bias")
        ratio = 2 if ".value." in name and "lora_" in name else 1
        ratio *= 4 if "lora_B" in name and factor else 1
        assert rate == pytest.approx(0.1 * ratio), name
    assert {round(rate, 9) for rate in rates.values()} == {0.1, 0.2, 0.4, 0.8}


def test_lora_plus_gives_a_stock_lora_the_rates_of_peft() -> None:
    model = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    ours = rate_of(ailora.create_optimizer(model, lr=0.1, loraplus_lr_ratio=4), model)
    made = create_loraplus_optimizer(model, AdamW, lr=0.1, loraplus_lr_ratio=4)
    theirs = rate_of(made, model)
    factors = [name for name in ours if "lora_" in name]
    assert {ours[name] for name in factors} == {0.1, 0.4}
    assert [ours[name] for name in factors] == [theirs[name] for name in factors]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head_lr": 0}, "head_lr=0: must be a positive number"),
        ({"loraplus_lr_ratio": -1}, "loraplus_lr_ratio=-1: must be a positive number"),
        ({"head_lr": 0.1}, "head_lr=0.1: the model trains no head"),
    ],
)
def test_a_rate_that_nothing_has_is_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(UserError) as error:
        ailora.create_optimizer(ailora_model(), lr=0.1, **options)  # type: ignore[arg-type]
    assert words in str(error.value)


def test_lora_plus_without_a_factor_is_refused() -> None:
    with pytest.raises(UserError, match="trains no factor B"):
        ailora.create_optimizer(tiny(), lr=0.1, loraplus_lr_ratio=2)


def test_v_at_twice_half_the_rate_is_q_at_half_the_rate() -> None:
    """LoRA with V at 2x and rate lr / 2 is LoRA at lr with Q's ratio 0.5, the head's rate held."""
    ends = []
    for lr, q, v in ((0.01, 1.0, 2.0), (0.02, 0.5, 1.0)):
        roles = {
            "q": Role(init="gaussian", lr_ratio=q),
            "v": Role(init="gaussian", lr_ratio=v),
        }
        torch.manual_seed(0)
        model = ailora_model(roles=roles, task_type="SEQ_CLS")
        train(model, batch(model), 5, ailora.create_optimizer(model, lr=lr, head_lr=0.005))
        ends.append({n: p.detach() for n, p in model.named_parameters() if p.requires_grad})
    assert ends[0].keys() == ends[1].keys()
    for name, end in ends[0].items():
        assert torch.equal(end, ends[1][name]), name


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
    for key, part in parts(model).items():
        wanted = 1e-3 if key.endswith("query") else 2.5e-4
        for now, start in ((part.A, part.A0), (part.B, part.B0)):
            assert float((now - start).abs().max()) == pytest.approx(wanted)


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
    assert warnings_of(caplog) == 2  # another optimiser


@pytest.mark.parametrize(
    ("fields", "rates", "heard"),
    [({}, [1e-3], 1), ({}, [1e-3, 2e-3], 0), ({"bake_rates": True}, [1e-3], 0)],
    ids=["one rate", "two rates", "baked"],
)
def test_pieces_that_hide_the_roles_at_one_rate_are_warned_of_once(
    caplog: pytest.LogCaptureFixture, fields: dict[str, object], rates: list[float], heard: int
) -> None:
    """As ZeRO 1 and 2 do: the factors name the flat pieces that the optimiser steps on."""
    gc.collect()  # other tests' models have factors too
    model = ailora_model(**fields)
    for value in model.parameters():
        value._hp_mapping = None  # type: ignore[attr-defined]
    pieces = [nn.Parameter(torch.zeros(4)) for _ in rates]
    groups = [{"params": [one], "lr": rate} for one, rate in zip(pieces, rates, strict=True)]
    optimizer = AdamW(groups, weight_decay=0.0)
    for _ in range(2):
        optimizer.step()
    assert warnings_of(caplog) == heard


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
        ({"bake_rates": True}, False),
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


def one_rate_by_hand(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 1e-3


def one_rate_by_schedule(optimizer: Optimizer) -> None:
    OneCycleLR(optimizer, max_lr=1e-3, total_steps=10)


@pytest.mark.parametrize("lose", [one_rate_by_hand, one_rate_by_schedule])
@pytest.mark.parametrize("both", [True, False], ids=["two roles", "one role and a head"])
@pytest.mark.parametrize("later", [0, 2])
def test_rates_that_somebody_makes_one_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
    lose: Callable[[Optimizer], None],
    both: bool,
    later: int,
) -> None:
    roles = {} if both else {"roles": {"v": Role(init="minor", lr_ratio=2)}}
    model = ailora_model(task_type="SEQ_CLS", **roles)
    optimizer = ailora.create_optimizer(model, lr=2e-3)
    train(model, batch(model), later, optimizer)
    assert warnings_of(caplog) == 0
    lose(optimizer)
    train(model, batch(model), 3, optimizer)
    assert warnings_of(caplog) == 1
    assert "scale each group's own" in caplog.text


def test_schedules_that_scale_and_a_warm_up_from_zero_are_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = ailora_model(task_type="SEQ_CLS")
    optimizer = ailora.create_optimizer(model, lr=1e-3, head_lr=2e-3, loraplus_lr_ratio=2)
    scheduler = LambdaLR(optimizer, lambda step: step / 3)
    for _ in range(4):
        train(model, batch(model), 1, optimizer)
        scheduler.step()
    kept = optimizer.state_dict()
    for group in kept["param_groups"]:  # as a checkpoint of an older version has them
        group["ailora_rates"] = True
    optimizer.load_state_dict(kept)
    train(model, batch(model), 1, optimizer)
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


KINDS: dict[str, Callable[..., Optimizer]] = {
    "AdamW": AdamW,
    "Adam": torch.optim.Adam,
    "SGD": partial(SGD, momentum=0.9, nesterov=True),
    "NAdam": partial(torch.optim.NAdam, decoupled_weight_decay=True),
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "RMSprop": torch.optim.RMSprop,
    "Adagrad": torch.optim.Adagrad,
    "foreach": partial(AdamW, foreach=True),
    "fused": partial(AdamW, fused=True),
    "amsgrad": partial(AdamW, amsgrad=True),
    "Adafactor": partial(Adafactor, relative_step=False, scale_parameter=False),
}


def far(model: PeftModel, start: dict[str, Found]) -> tuple[float, float]:
    """How far the anchors and the factors are from a start, at most."""
    now = parts(model)
    anchors, factors = [], []
    for key, then in start.items():
        anchors += [now[key].A0 - then.A0, now[key].B0 - then.B0]
        factors += [now[key].A - then.A, now[key].B - then.B]
    return tuple(max(float(x.abs().max()) for x in several) for several in (anchors, factors))


def copied(found: dict[str, Found]) -> dict[str, Found]:
    return {
        key: replace(part, **{name: getattr(part, name).clone() for name in ("A", "B", "A0", "B0")})
        for key, part in found.items()
    }


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ours", [True, False])
def test_no_optimiser_moves_an_anchor(kind: str, decay: float, ours: bool) -> None:
    model = ailora_model()
    start = copied(parts(model))
    trainable = [p for p in model.parameters() if p.requires_grad]
    options = {"lr": 1e-2, "weight_decay": decay}
    make = KINDS[kind]
    optimizer = (
        ailora.create_optimizer(model, make, **options) if ours else make(trainable, **options)
    )
    train(model, batch(model), 5, optimizer)
    anchors, factors = far(model, start)
    assert factors > 1e-4
    assert anchors < 1e-12


def test_weight_decay_would_move_the_anchors_without_the_hooks() -> None:
    """The negative control of the test above."""
    model = ailora_model()
    start = copied(parts(model))
    train(model, batch(model), 1, ailora.create_optimizer(model, lr=1e-3))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.mul_(1 - 0.005)
    anchors, _ = far(model, start)
    assert anchors > 1e-3


def test_decay_pulls_to_the_start_by_the_rate_times_the_decay() -> None:
    """Decoupled, without a gradient: D <- (1 - lr decay) D."""
    model = ailora_model(roles=presets.pissa().roles)
    for name in (Q0, V0):
        move(model, name)
    before = copied(parts(model))
    optimizer = ailora.create_optimizer(model, lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    after = parts(model)
    for key in (Q0, V0):
        for letter in "AB":
            now, anchor = getattr(after[key], letter), getattr(after[key], f"{letter}0")
            then = getattr(before[key], letter)
            torch.testing.assert_close(now - anchor, 0.95 * (then - anchor), rtol=0, atol=1e-12)
            assert (then - anchor).abs().max() > 0.1


@pytest.mark.parametrize(("name", "decay"), [("AdamW8bit", 0.0), ("Lion8bit", 0.1)])
def test_8_bit_optimisers_hardly_move_an_anchor(name: str, decay: float, tmp_path: Path) -> None:
    """Their states are rounded, in other blocks for one half of A than for the other."""
    kind = getattr(pytest.importorskip("bitsandbytes").optim, name)
    model = ailora.get_peft_model(encoder(), presets.ailora(16))
    start = copied(parts(model))
    optimizer = ailora.create_optimizer(model, kind, lr=1e-3, weight_decay=decay)
    train(model, sentences(labels=True), 20, optimizer)
    anchors, factors = far(model, start)
    assert anchors < 0.02 * factors
    model.save_pretrained(tmp_path)
    assert (tmp_path / "ailora.json").exists()


def test_an_optimiser_that_gets_parameters_later_is_watched_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, other = ailora_model(), nn.Linear(2, 2)
    optimizer = plain(other)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert warnings_of(caplog) == 0
    optimizer.add_param_group({"params": [p for p in model.parameters() if p.requires_grad]})
    train(model, batch(model), 1, optimizer)
    assert warnings_of(caplog) == 1


def test_watching_keeps_no_model_alive() -> None:
    model = ailora_model()
    optimizer = ailora.create_optimizer(model, lr=1e-3, weight_decay=0.1)
    train(model, batch(model), 1, optimizer)
    seen = weakref.ref(parts(model)[Q0].modules[0])
    assert seen() is not None
    del model, optimizer
    gc.collect()
    assert seen() is None
