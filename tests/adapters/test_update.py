"""Norms of dW from the factors, against dW itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.adapters.update import role_updates, update_norms
from ailora.linalg import LowRank
from tests.adapters.models import Q0, batch, parts, tiny, train


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("baked", [False, True])
@pytest.mark.parametrize("name", presets.__all__)
def test_norms_are_those_of_the_change_of_each_weight(
    anchored: bool, baked: bool, name: str
) -> None:
    config = getattr(presets, name)(3, lora_alpha=5, anchored=anchored, bake_rates=baked)
    model = ailora.get_peft_model(tiny(), config)
    train(model, batch(model), 4)
    norms = update_norms(model)
    for update in role_updates(model):
        now = parts(model)[update.projection.key]
        assert torch.equal(update.A, now.A) and torch.equal(update.B, now.B)
    merged, original = model.merge_and_unload(), tiny()
    assert {(norm.name.rpartition(".")[2], norm.role) for norm in norms} == {
        ("query", "q"),
        ("value", "v"),
    }
    assert len(norms) == 4
    for norm in norms:
        weight = original.get_submodule(norm.name).weight.detach()
        change = torch.linalg.norm(merged.get_submodule(norm.name).weight.detach() - weight)
        assert norm.norm == pytest.approx(float(change), rel=1e-9)
        assert norm.relative == pytest.approx(float(change / torch.linalg.norm(weight)), rel=1e-9)
        assert norm.norm > 1e-4


def test_an_untrained_adapter_has_moved_nothing() -> None:
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=3))
    assert {norm.norm for norm in update_norms(model)} == {0.0}
    ailora.get_peft_model(model, AILoRAConfig(r=2), "second")
    train(model, batch(model), 1)
    assert {norm.norm for norm in update_norms(model, "second")} == {0.0}


def test_roles_named_by_hand_are_measured_under_those_roles() -> None:
    model = tiny()
    model.config.model_type = "unheard-of"
    roles = {"o": Role(init="principal", modules=["self.query"])}
    wrapped = ailora.get_peft_model(model, AILoRAConfig(r=2, roles=roles))
    assert [(norm.name, norm.role) for norm in update_norms(wrapped)] == [
        (Q0, "o"),
        (Q0.replace("0", "1"), "o"),
    ]


def test_a_weight_of_zeros_has_no_relative_change_and_no_crash() -> None:
    model = tiny()
    nn.init.zeros_(model.get_submodule(Q0).weight)
    roles = {"q": Role(init="gaussian")}
    wrapped = ailora.get_peft_model(model, AILoRAConfig(r=2, roles=roles, layers_to_transform=[0]))
    train(wrapped, batch(wrapped), 1)
    (norm,) = update_norms(wrapped)
    assert norm.norm > 0
    assert norm.relative == float("inf")


def test_small_products_keep_their_digits() -> None:
    """A Gram matrix would lose half of them: the negative control."""
    A = torch.randn(3, 20, dtype=torch.float64)
    B = torch.randn(30, 3, dtype=torch.float64)
    A[1], B[:, 1] = A[0], -B[:, 0] * (1 - 1e-9)
    A[2] = 0
    exact = float(torch.linalg.norm(B[:, :1] @ A[:1]) * 1e-9)
    squared = torch.einsum("ij,ji->", B.T @ B @ A, A.T)
    assert float(LowRank(A=A, B=B).norm()) == pytest.approx(exact, rel=1e-5)
    assert float(squared.clamp(min=0).sqrt()) != pytest.approx(exact, rel=1e-5)
