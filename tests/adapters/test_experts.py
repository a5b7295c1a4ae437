"""Experts of a mixture, as stacks (``target_parameters``): the promises that a layer has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.granitemoe import modeling_granitemoe

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters import peft_insides
from ailora.adapters.factors import cut
from ailora.adapters.update import update_norms
from ailora.errors import UserError
from ailora.offline.check import check_adapter
from ailora.versions import is_transformers_4
from tests.adapters.any_model import (
    DTYPES,
    base,
    batch,
    check_step_0,
    logits,
    run_stock_peft,
    train,
    train_and_save,
)

pytestmark = pytest.mark.skipif(
    is_transformers_4(), reason="transformers 4 keeps experts of most types as layers"
)

# Not everywhere in transformers 5 are the experts of Granite stacks.
STACKED = ("granitemoe",) if hasattr(modeling_granitemoe, "GraniteMoeExperts") else ()
TYPES = ("mixtral", "qwen3_moe", "gpt_oss", "olmoe", *STACKED)
STACKS = ["experts.gate_up_proj", "experts.down_proj"]
ROLES = {
    "q": Role(init="principal", r=2),
    "gate": Role(init="principal", r=2),
    "up": Role(init="minor", r=3, lr_ratio=2.0, lora_alpha=3),
    "down": Role(init="minor", r=2, lora_alpha=5),
}
STARRED = {"q": ROLES["q"], "*": Role(init="minor", r=3)}
ROUTERS = ("gate", "router")
# PEFT before 0.20 takes the rows of every stack for columns.
COLUMNS = peft_insides.takes_as_transposed(nn.Module())
by_rows = pytest.mark.skipif(COLUMNS, reason="this PEFT gives no rows of a stack their own factors")


def config(roles: dict[str, Role] = ROLES, **fields: Any) -> AILoRAConfig:
    return AILoRAConfig(r=2, roles=roles, **{"target_parameters": STACKS, **fields})


def roles_for(model_type: str) -> dict[str, Role]:
    """Roles of rows, where the installed PEFT can give them factors of their own."""
    return STARRED if COLUMNS and model_type != "gpt_oss" else ROLES


def stacks(model: PeftModel) -> dict[str, tuple[torch.Tensor, ...]]:
    """Of each parameter and role: A, B, A0, B0 of every expert, and s."""
    found = {}
    for name, blocks in model.peft_config["default"].record.layers.items():
        layer = model.get_base_model().get_submodule(name)
        A, B = (m["default"].weight.detach().double() for m in (layer.lora_A, layer.lora_B))
        for block, part in zip(blocks, cut(A, B, blocks), strict=True):
            if block.parameter:
                one = (part.A, part.B, part.A0, part.B0, layer.scaling["default"])
                found[block.name(name), block.role] = one
    return found


def expert_rows(model_type: str, stored: torch.Tensor, role: str) -> torch.Tensor:
    """W of a role, (E, m, n), written down by hand from transformers' forward methods."""
    W = stored.double()
    if model_type == "gpt_oss":
        W = W.mT
        return {"gate": W[:, ::2], "up": W[:, 1::2], "down": W, "*": W}[role]
    half = W.shape[1] // 2
    return {"gate": W[:, :half], "up": W[:, half:], "down": W, "*": W}[role]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", TYPES)
def test_step_0_and_the_disabled_adapter_are_the_base_bit_for_bit(
    model_type: str, dtype: torch.dtype
) -> None:
    check_step_0(model_type, dtype, config(roles_for(model_type)))


@pytest.mark.parametrize("roles", [pytest.param(ROLES, marks=by_rows), STARRED])
@pytest.mark.parametrize("model_type", TYPES)
def test_each_expert_starts_from_its_own_part_of_its_own_rows(
    model_type: str, roles: dict[str, Role]
) -> None:
    model = ailora.get_peft_model(base(model_type), config(roles))
    found = stacks(model)
    named = {role for role in roles if role != "q"}
    assert {role for _, role in found} == named
    assert len(found) == 2 * (3 if "gate" in roles else 2)  # two layers
    weights = dict(base(model_type).named_parameters())
    for (name, role), (_, _, A0, B0, scaling) in found.items():
        W = expert_rows(model_type, weights[name].detach(), role)
        U, S, Vt = torch.linalg.svd(W, full_matrices=False)
        rank = roles[role].r
        ends = slice(0, rank) if roles[role].init == "principal" else slice(S.shape[1] - rank, None)
        wanted = (U[..., ends] * S[:, None, ends]) @ Vt[:, ends]
        start = scaling * B0 @ A0
        start = start.mT if COLUMNS and model_type != "gpt_oss" else start
        assert torch.linalg.norm(start - wanted) < 1e-5 * torch.linalg.norm(wanted)


@by_rows
@pytest.mark.parametrize("model_type", TYPES)
def test_only_what_trains_moves(model_type: str) -> None:
    """Both halves of A' move alike, B0 stays; rows of other roles and the routers stay."""
    roles = {"up": Role(init="minor", r=3)}
    asked = config(roles, target_parameters=STACKS[:1])
    model = ailora.get_peft_model(base(model_type), asked)
    before = stacks(model)
    train(model, batch(base(model_type)), 5)
    for key, (A, B, A0, B0, _) in stacks(model).items():
        torch.testing.assert_close(A0, before[key][2], rtol=0, atol=1e-6)
        assert torch.equal(B0, before[key][3])
        assert not torch.equal(A, A0) and not torch.equal(B, B0)
    merged = dict(model.merge_and_unload().named_parameters())
    for name, stored in base(model_type).named_parameters():
        if not name.endswith("gate_up_proj"):
            assert torch.equal(stored, merged[name]), name
            continue
        change = merged[name].detach() - stored.detach()
        for role, least, most in (("gate", 0, 1e-12), ("up", 1e-4, 1e9)):
            size = float(expert_rows(model_type, change, role).norm())
            assert least <= size <= most, (name, role, size)


def test_it_trains_as_plain_factors_over_the_residual_do() -> None:
    """An anchored stack trains as the paper's form does: against plain factors over the residual.

    PEFT's own wrapper trains those, on a base from whose experts the start was subtracted by hand.
    """
    roles = {"*": Role(init="principal", r=2)}
    asked = config(roles)
    plain, residual = base("mixtral").double(), base("mixtral").double()
    for model in (plain, residual):
        model.set_experts_implementation("eager")  # the others have no fp64
    before = logits(plain, batch(plain))
    ours = ailora.get_peft_model(plain, asked)
    parameters = dict(residual.named_parameters())
    began = stacks(ours)
    for (name, _), (_, _, A0, B0, scaling) in began.items():
        start = scaling * B0 @ A0
        parameters[name].data -= start.mT if COLUMNS else start
    stock = LoraConfig(r=2, lora_alpha=2, target_modules=[], target_parameters=STACKS)
    theirs = get_peft_model(residual, stock)
    for name in ours.peft_config["default"].record.layers:
        layer = theirs.get_base_model().get_submodule(name)
        parameter = f"{name.replace('.base_layer', '')}.{layer.parameter_name}"
        A, B, *_ = began[parameter, "*"]
        layer.lora_A["default"].weight.data = A.flatten(0, 1)
        layer.lora_B["default"].weight.data = B.permute(1, 2, 0).flatten(1)
    inputs = batch(base("mixtral"))
    for model in (ours, theirs):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        for _ in range(5):
            model(**inputs).logits.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    end = logits(ours, inputs)
    assert (end - before).abs().max() > 1e-3
    torch.testing.assert_close(end, logits(theirs, inputs), rtol=0, atol=1e-8)


@by_rows
def test_weight_decay_and_rates_by_role_leave_the_anchor_alone() -> None:
    model = ailora.get_peft_model(base("qwen3_moe"), config())
    before, inputs = stacks(model), batch(base("qwen3_moe"))
    optimizer = ailora.create_optimizer(model, lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        model(**inputs).logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    steps = {"gate": [], "up": []}
    for key, (A, _, A0, B0, _) in stacks(model).items():
        torch.testing.assert_close(A0, before[key][2], rtol=0, atol=1e-6)
        torch.testing.assert_close(B0, before[key][3], rtol=0, atol=0)
        if key[1] in steps:
            steps[key[1]].append(float((A - A0).abs().max()))
    assert max(steps["gate"]) < 0.032 < max(steps["up"]) < 0.064  # three steps of Adam, one at 2x


def test_stock_peft_in_another_process_computes_the_same(tmp_path: Path) -> None:
    wanted = {}
    for model_type in TYPES:
        for dtype in DTYPES:
            folder = tmp_path / f"{model_type}-{dtype}"
            asked = config(roles_for(model_type))
            model = ailora.get_peft_model(base(model_type, dtype), asked)
            inputs = batch(base(model_type))
            wanted[folder] = train_and_save(model, base(model_type, dtype), folder)
            again = ailora.load_adapter(
                base(model_type, dtype), folder / "adapter", is_trainable=True
            )
            torch.testing.assert_close(logits(again, inputs), wanted[folder], rtol=0, atol=1e-6)
            for one in (model, again):
                train(one, inputs, 2)
            torch.testing.assert_close(
                logits(again, inputs), logits(model, inputs), rtol=0, atol=1e-2
            )
    run_stock_peft(tmp_path)
    for folder, expected in wanted.items():
        got = load_file(folder / "out")
        loose = 1e-5 if "float32" in folder.name else 2e-2
        torch.testing.assert_close(got["logits"], expected, rtol=0, atol=loose, msg=folder.name)
        adapted = (folder / "adapted").read_text().split()
        assert not any(name.rpartition(".")[2] in ROUTERS for name in adapted)


def test_a_base_whose_experts_were_trained_since_is_told(tmp_path: Path) -> None:
    saved(tmp_path / "adapter")
    for dtype in DTYPES:
        ailora.load_adapter(base("gpt_oss", dtype), tmp_path / "adapter")
    base("gpt_oss").save_pretrained(tmp_path / "same")
    other = base("gpt_oss")
    other.get_parameter("model.layers.1.mlp.experts.down_proj").data[3] *= 1.001
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.experts\.down_proj is the first layer"):
        ailora.load_adapter(other, tmp_path / "adapter")
    found = {
        folder: {row.subject: row for row in check_adapter(tmp_path / "adapter", tmp_path / folder)}
        for folder in ("same", "other")
    }
    assert found["same"]["base"].result == "fine"
    assert found["other"]["base"].result == "wrong"
    assert "layers.1.mlp.experts.down_proj" in found["other"]["base"].details


@pytest.mark.parametrize("use_rslora", [True, False])
def test_a_start_comes_back_at_its_scale(
    tmp_path: Path, use_rslora: bool, caplog: pytest.LogCaptureFixture
) -> None:
    roles = {name: Role(init="minor", r=2, lora_alpha=6) for name in ("gate", "up", "down")}
    asked = config(roles, use_rslora=use_rslora)
    model = ailora.get_peft_model(base("gpt_oss"), asked)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(base("gpt_oss"), tmp_path)
    assert "the frozen half" not in caplog.text
    ours, theirs = stacks(model), stacks(again)
    assert ours.keys() == theirs.keys()
    for key, found in ours.items():
        assert found[-1] == pytest.approx(theirs[key][-1])
        torch.testing.assert_close(found[:-1], theirs[key][:-1])


@pytest.mark.parametrize("letter", "AB")
def test_factors_that_the_experts_do_not_divide_are_refused(tmp_path: Path, letter: str) -> None:
    weights = saved(tmp_path) / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = min(k for k in tensors if k.endswith(f"experts.lora_{letter}.weight"))
    fewer = tensors[key][1:] if letter == "A" else tensors[key][:, 1:]
    save_file(tensors | {key: fewer.contiguous()}, weights)
    with pytest.raises(UserError, match="they are not of one adapter"):
        ailora.load_adapter(base("gpt_oss"), tmp_path)


def saved(folder: Path) -> Path:
    """A trained adapter of gpt-oss, whose experts are stored as they are in memory."""
    model = ailora.get_peft_model(base("gpt_oss"), config())
    train(model, batch(base("gpt_oss")))
    model.save_pretrained(folder)
    return folder


def test_every_expert_has_its_update_norm() -> None:
    model = ailora.get_peft_model(base("mixtral"), config(roles_for("mixtral")))
    assert {n.norm for n in update_norms(model)} == {0.0}
    train(model, batch(base("mixtral")))
    found = {one.name: one for one in update_norms(model)}
    merged = dict(model.merge_and_unload().named_parameters())
    name = "model.layers.0.mlp.experts.down_proj"
    change = merged[name] - dict(base("mixtral").named_parameters())[name]
    for expert in range(4):
        norm = float(change[expert].detach().norm())
        assert found[f"{name}.{expert}"].norm == pytest.approx(norm, rel=1e-3)


# --- Routers, and what is refused ---------------------------------------------------------------


@pytest.mark.parametrize("model_type", TYPES)
def test_all_linear_adapts_attention_and_no_router(model_type: str) -> None:
    roles = {"q": Role(init="principal"), "v": Role(init="minor"), "*": Role(init="principal")}
    model = ailora.get_peft_model(
        base(model_type), AILoRAConfig(r=2, roles=roles, target_modules="all-linear")
    )
    adapted = [n for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")]
    last = {name.rpartition(".")[2] for name in adapted}
    assert last == {"q_proj", "k_proj", "v_proj", "o_proj"}


@by_rows
def test_pefts_own_all_linear_adapts_experts_and_the_router() -> None:
    """What the tests above would show if ours went PEFT's way; if this fails, PEFT changed."""
    model = get_peft_model(base("mixtral"), LoraConfig(r=2, target_modules="all-linear"))
    adapted = [n for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")]
    assert any(name.endswith("mlp.gate") for name in adapted)
    assert any(name.endswith("mlp.experts") for name in adapted)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_parameters": ["gate.weight"]}, "is a router, which chooses experts"),
        ({"target_modules": ["q_proj", "gate"]}, "router|PEFT would rewrite|PEFT takes"),
        ({"target_parameters": ["experts.nothing"]}, "no parameter is named 'experts.nothing'"),
        ({"anchored": False}, "nothing is folded into"),
        ({"lora_dropout": 0.1}, "PEFT has it for layers, not for parameters"),
        ({"use_dora": True}, "PEFT has it for layers, not for parameters"),
        ({"layers_to_transform": [0]}, "PEFT adapts the parameters of every layer"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_changed(
    fields: dict[str, Any], message: str
) -> None:
    model = base("mixtral")
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(UserError, match=message) as caught:
        ailora.get_peft_model(model, config(roles_for("mixtral"), **fields))
    assert "\n" not in str(caught.value)
    assert [name for name, _ in model.named_parameters()] == before


@pytest.mark.skipif(not COLUMNS, reason="from PEFT 0.20 on they have")
def test_roles_of_rows_that_an_older_peft_takes_for_columns_are_refused() -> None:
    with pytest.raises(UserError, match="this version of PEFT takes its rows for columns"):
        ailora.get_peft_model(base("mixtral"), config())


def test_without_a_role_for_them_experts_are_plain_lora_as_pefts() -> None:
    model = ailora.get_peft_model(base("mixtral"), config({"q": Role(init="principal")}))
    record = model.peft_config["default"].record
    assert not any("experts" in name for name in record.layers)
    layer = model.get_base_model().get_submodule("model.layers.0.mlp.experts")
    assert not layer.lora_B["default"].weight.any() and layer.r["default"] == 2
