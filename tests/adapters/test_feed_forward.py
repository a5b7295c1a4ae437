"""Starts of gate, up and down: the same promises as for attention, for every kind of layer."""

from __future__ import annotations

import logging
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters import peft_insides
from ailora.adapters.selection import select
from ailora.errors import UserError
from ailora.roles import FEED_FORWARD_ROLES, assign_roles, find_projections
from ailora.roles.walk import walk
from ailora.versions import is_transformers_4
from tests.adapters.any_model import (
    DTYPES,
    base,
    batch,
    check_own_parts,
    check_step_0,
    check_stock_peft,
    logits,
    train,
    train_and_save,
)
from tests.architectures import build

# Layers of their own, Conv1D, one layer for gate and up, no gate, T5's names.
TYPES = ("llama", "gpt2", "phi3", "modernbert", "bert", "mt5")
FEED_FORWARD = {
    "gate": Role(init="principal", r=2),
    "up": Role(init="minor", r=3, lr_ratio=2.0),
    "down": Role(init="gaussian", r=2),
}


def config(model_type: str, **fields: Any) -> AILoRAConfig:
    names = [place.name for place in walk(build(model_type, device="meta"))]
    found = assign_roles(build(model_type, device="meta"), names, FEED_FORWARD_ROLES)
    there = {p.role for p in found}
    scale = {role: value.r for role, value in FEED_FORWARD.items()}
    roles = {
        role: Role(**{**vars(value), "lora_alpha": 1.5 * (scale[role] or 1)})
        for role, value in FEED_FORWARD.items()
        if role in there
    }
    return AILoRAConfig(roles=roles, **fields)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", TYPES)
def test_step_0_and_the_disabled_adapter_are_the_base_bit_for_bit(
    model_type: str, dtype: torch.dtype
) -> None:
    check_step_0(model_type, dtype, config(model_type))


@pytest.mark.parametrize("model_type", TYPES)
def test_each_role_starts_from_its_own_part_of_its_own_rows(model_type: str) -> None:
    asked = config(model_type)
    check_own_parts(ailora.get_peft_model(base(model_type), asked), asked.roles)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("model_type", ["phi3", "modernbert"])
def test_only_the_rows_of_the_role_that_trains_move(model_type: str, anchored: bool) -> None:
    roles = {"up": Role(init="minor", r=3)}
    model = ailora.get_peft_model(base(model_type), AILoRAConfig(roles=roles, anchored=anchored))
    train(model, batch(base(model_type)), 5)
    merged = {p.key: p for p in find_projections(model.merge_and_unload(), FEED_FORWARD_ROLES)}
    moved = Counter()
    for p in find_projections(base(model_type), FEED_FORWARD_ROLES):
        change = (merged[p.key].weight() - p.weight()).norm() / p.weight().norm()
        moved[p.role] = max(moved[p.role], float(change))
    assert max(moved["gate"], moved["down"]) < 1e-6 < 1e-3 < moved["up"]


def _adapted(model: PeftModel) -> list[str]:
    return [n for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")]


def test_stock_peft_in_another_process_reproduces_the_logits(tmp_path: Path) -> None:
    wanted = {}
    for model_type in TYPES:
        for dtype in DTYPES:
            folder = tmp_path / f"{model_type}-{dtype}"
            model = ailora.get_peft_model(base(model_type, dtype), config(model_type))
            wanted[folder] = train_and_save(model, base(model_type, dtype), folder)
    check_stock_peft(wanted)


# --- Published layers, and all linear layers ----------------------------------------------------


def _roles(model_type: str, asked: AILoRAConfig) -> Counter[str]:
    return Counter(one.projection.role for one in select(base(model_type), asked).chosen)


def test_presets_take_the_layers_of_their_papers() -> None:
    pissa, milora = (make(4, published=True) for make in (presets.pissa, presets.milora))
    # a layer in the role "*" is one that its preset does not name: the gate, where there is one
    assert _roles("llama", pissa) == dict.fromkeys(("q", "k", "v", "o", "up", "down", "*"), 2)
    assert _roles("bert", pissa) == dict.fromkeys(("q", "k", "v", "o", "up", "down"), 2)
    assert _roles("phi3", pissa) == dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), 2)
    assert _roles("llama", milora) == dict.fromkeys(("q", "k", "v", "up", "down"), 2)
    for asked, init in ((pissa, "principal"), (milora, "minor")):
        chosen = select(base("llama"), asked).chosen
        assert {(one.role.init, one.lr_ratio, one.rank) for one in chosen} == {(init, 1.0, 4)}


@pytest.mark.parametrize("field", ["roles", "target_modules"])
def test_published_layers_and_layers_of_ones_own_exclude_each_other(field: str) -> None:
    own: Any = {"roles": {"q": Role(init="minor")}, "target_modules": ["q_proj"]}[field]
    with pytest.raises(UserError, match=f"published=True says which layers: leave out {field}="):
        presets.milora(published=True, **{field: own})


def test_all_linear_says_which_layers_take_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    roles = {"q": Role(init="principal"), "up": Role(init="minor")}
    with caplog.at_level(logging.INFO, "ailora"):
        chosen = select(
            base("llama"), AILoRAConfig(r=2, roles=roles, target_modules="all-linear")
        ).chosen
    assert Counter(one.projection.role for one in chosen) == {"q": 2, "up": 2, "*": 10}
    assert (
        'roles["*"] (gaussian) takes 10 layers that play none of the roles q, up: '
        "k_proj 2, v_proj 2, o_proj 2, gate_proj 2, down_proj 2"
    ) in caplog.messages


def test_the_star_without_target_modules_is_every_role_that_the_model_has() -> None:
    asked = AILoRAConfig(r=2, roles={"*": Role(init="minor")})
    assert _roles("llama", asked) == {"*": 14}
    assert _roles("mixtral", asked) == {"*": 8}


# --- Mixtures of experts: PEFT's names for them -------------------------------------------------


experts_are_parameters = pytest.mark.skipif(
    is_transformers_4() or find_spec("peft.utils.transformers_weight_conversion") is None,
    reason="transformers 4 keeps experts as layers, and PEFT 0.18 converts no names",
)
MIXTURES = ("mixtral", "qwen3_moe", "qwen3_next", "glm4_moe", "granitemoeshared")


@experts_are_parameters
def test_what_is_adapted_in_a_mixture_is_what_stock_peft_adapts_again(tmp_path: Path) -> None:
    wanted, adapted = {}, {}
    for model_type in MIXTURES:
        asked = presets.lora(2, target_modules="all-linear")
        model = ailora.get_peft_model(base(model_type), asked)
        folder = tmp_path / model_type
        wanted[folder] = train_and_save(model, base(model_type), folder)
        adapted[folder] = _adapted(model)
    check_stock_peft(wanted)
    for folder, names in adapted.items():
        assert (folder / "adapted").read_text().split() == names
        assert not any("experts" in name.replace("shared_experts", "") for name in names)


@experts_are_parameters
def test_peft_itself_takes_the_names_of_shared_experts_for_experts() -> None:
    """The reason for what is refused below; if this fails, PEFT has mended it."""
    model = get_peft_model(
        base("qwen3_next"), LoraConfig(target_modules=["gate_proj", "up_proj"], r=2)
    )
    assert any(name.endswith(".experts") for name in _adapted(model))
    assert not any("shared_expert." in name for name in _adapted(model))


@experts_are_parameters
@pytest.mark.parametrize(
    "asked",
    [
        AILoRAConfig(r=2, roles={"up": Role(init="minor")}),
        AILoRAConfig(r=2, target_modules=["q_proj", "up_proj"]),
        AILoRAConfig(r=2, roles={"up": Role(init="minor")}, target_modules="all-linear"),
        AILoRAConfig(r=2, roles={"up": Role(init="minor", modules=["shared_expert.up_proj"])}),
    ],
)
def test_names_that_peft_would_take_for_experts_are_refused(asked: AILoRAConfig) -> None:
    model = base("qwen3_next")
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(UserError, match="PEFT takes that name for the experts") as caught:
        ailora.get_peft_model(model, asked)
    assert "\n" not in str(caught.value) and "shared_expert.up_proj" in str(caught.value)
    assert [name for name, _ in model.named_modules()] == before


@experts_are_parameters
def test_all_linear_leaves_such_layers_out_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    chosen = select(base("qwen3_next"), presets.lora(2, target_modules="all-linear")).chosen
    assert not any("shared_expert." in one.projection.name for one in chosen)
    assert "6 layers are left out" in caplog.text and "PEFT takes that name" in caplog.text


@experts_are_parameters
def test_a_shared_expert_with_a_name_of_its_own_can_be_adapted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = AILoRAConfig(roles={"up": Role(init="minor", r=2)})
    plain = base("granitemoeshared")
    if not any("experts" in name for name, _ in plain.named_modules()):
        pytest.skip("its experts have other names in an older transformers")
    model = ailora.get_peft_model(plain, asked)
    assert "experts are left out: up are roles of dense" in caplog.text
    assert {name.rpartition(".")[2] for name in _adapted(model)} == {"input_linear"}


# --- PEFT's own PiSSA ---------------------------------------------------------------------------


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _both() -> tuple[PeftModel, PeftModel]:
    stock = LoraConfig(r=4, lora_alpha=6, target_modules=LINEAR, init_lora_weights="pissa")
    ours = presets.pissa(4, published=True, lora_alpha=6, anchored=False)
    return get_peft_model(base("llama"), stock), ailora.get_peft_model(base("llama"), ours)


def test_the_start_on_all_linear_layers_is_peft_pissas() -> None:
    theirs, ours = (
        peft_insides.lora_layers(model.get_base_model(), "default") for model in _both()
    )
    assert theirs.keys() == ours.keys() and len(ours) == 14
    for name, layer in ours.items():
        mine, other = (
            part.scaling["default"] * part.lora_B["default"].weight @ part.lora_A["default"].weight
            for part in (layer, theirs[name])
        )
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5 * float(other.norm()))
        torch.testing.assert_close(
            layer.get_base_layer().weight, theirs[name].get_base_layer().weight, rtol=0, atol=1e-5
        )
        for letter in ("lora_A", "lora_B"):  # up to the sign of each triplet
            torch.testing.assert_close(
                *(getattr(part, letter)["default"].weight.abs() for part in (layer, theirs[name])),
                rtol=0,
                atol=1e-4,
            )


def test_the_first_steps_on_all_linear_layers_are_peft_pissas() -> None:
    """Neither Adam nor the loss sees the signs of triplets."""
    inputs, ends = batch(base("llama")), []
    for model in _both():
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
        losses = []
        for _ in range(5):
            loss = model(**inputs, labels=inputs["input_ids"]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        ends.append((losses, logits(model, inputs)))
    (theirs, end), (ours, our_end) = ends
    assert theirs[0] - theirs[-1] > 0.05
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert (our_end - end).abs().max() < 1e-2 * (end - logits(base("llama"), inputs)).abs().max()
