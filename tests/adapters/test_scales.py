"""The size of a start, apart from its directions."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn
from torch.optim import Adam

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.selection import select
from ailora.adapters.starting_factors import make_factors
from ailora.adapters.starts import STARTS
from ailora.errors import UserError
from ailora.roles import Projection, find_projections
from tests.adapters.models import (
    Q0,
    base_weights,
    batch,
    check_a_start,
    encoder,
    logits,
    sentences,
    tiny,
)

SPECTRAL = ("principal", "minor", "orthonormal", "orthonormal_minor")
SCALES = ("sigma", "unit", "matched", 0.25)


def sizes(init: str, scale: Any, *, rank: int = 4, alpha: float | None = None) -> np.ndarray:
    """Singular values of s B A of one weight, in fp64, descending."""
    config = AILoRAConfig(r=rank, lora_alpha=alpha, roles={"q": Role(init=init, scale=scale)})
    selection = select(tiny(), config)
    (one,) = (one for one in selection.chosen if one.projection.key == Q0)
    made = make_factors(selection)[Q0]
    product = one.scaling * (made.B @ made.A).numpy()
    return np.linalg.svd(product, compute_uv=False)[:rank]


def spectrum() -> np.ndarray:
    return np.linalg.svd(tiny().get_submodule(Q0).weight.detach().numpy(), compute_uv=False)


@pytest.mark.parametrize("alpha", [None, 2, 16])
@pytest.mark.parametrize("init", SPECTRAL)
def test_each_scale_has_the_sizes_that_it_says(init: str, alpha: float | None) -> None:
    S, s = spectrum(), (alpha or 4) / 4
    own = S[:4] if init in ("principal", "orthonormal") else S[-4:]
    found = {scale: sizes(init, scale, alpha=alpha) for scale in SCALES}
    np.testing.assert_allclose(found["sigma"], own, rtol=1e-8)
    np.testing.assert_allclose(found["unit"], np.ones(4), rtol=1e-9)
    np.testing.assert_allclose(found[0.25], own / 4, rtol=1e-8)
    # The first step's size squared over lr^2, of a spectral start and of LoRA's.
    m = n = 32
    step = s * (m + n) * found["matched"].sum()
    assert step == pytest.approx(s**2 * m * 4 / 3, rel=1e-9)
    if init in ("principal", "minor"):  # one number for all of them
        np.testing.assert_allclose(found["matched"] / own, found["matched"][0] / own[0], rtol=1e-7)


def test_unit_is_sigma_where_all_singular_values_are_1() -> None:
    model = tiny()
    with torch.no_grad():
        weight = model.get_submodule(Q0).weight
        weight.copy_(torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64)).Q)
    products = []
    for scale in ("sigma", "unit"):
        roles = {"q": Role(init="principal", scale=scale)}
        selection = select(model, AILoRAConfig(r=3, roles=roles))
        made = make_factors(selection)[Q0]
        products.append(made.B @ made.A)
    torch.testing.assert_close(*products, rtol=0, atol=1e-9)


def test_orthonormal_directions_are_random_and_have_nothing_of_the_weights() -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        selection = select(tiny(), AILoRAConfig(r=4, roles={"q": Role(init="orthonormal")}))
        made = make_factors(selection)[Q0]
        B = made.B / made.B.norm(dim=0)
        torch.testing.assert_close(B.T @ B, torch.eye(4, dtype=B.dtype), rtol=0, atol=1e-12)
        found.append(B)
    overlap = torch.linalg.svdvals(found[0].T @ found[1])
    assert overlap.max() < 0.9
    U = torch.linalg.svd(tiny().get_submodule(Q0).weight)[0][:, :4].detach()
    assert torch.linalg.svdvals(found[0].T @ U).max() < 0.9


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("init", SPECTRAL)
def test_every_size_begins_at_the_base_and_comes_back_from_its_files(
    init: str, scale: Any, anchored: bool, tmp_path: Path
) -> None:
    model, moved = check_a_start(Role(init=init, scale=scale), anchored, tmp_path)
    inputs = batch(model)
    if anchored:
        stock = peft.PeftModel.from_pretrained(tiny(), str(tmp_path))
        torch.testing.assert_close(logits(stock.eval(), inputs), moved, rtol=0, atol=1e-6)
        return
    residual = tiny()
    residual.load_state_dict(base_weights(model), strict=False)
    with pytest.raises(UserError, match="its start is already taken out"):
        ailora.load_adapter(residual, tmp_path)


@pytest.mark.parametrize(
    ("init", "scale", "message"),
    [
        ("principal", "big", "must be 'sigma', 'unit', 'matched' or a positive number"),
        ("minor", 0, "or a positive number"),
        ("minor", -1.0, "or a positive number"),
        ("minor", float("inf"), "or a positive number"),
        ("minor", float("nan"), "or a positive number"),
        ("minor", True, "or a positive number"),
        ("minor", None, "or a positive number"),
        ("gaussian", "unit", "must be 'sigma', 'matched'$"),
        ("gaussian", 2.0, "must be 'sigma', 'matched'$"),
        ("corda", 2.0, "must be 'sigma'$"),
    ],
)
def test_a_scale_that_a_start_cannot_have_is_refused(init: str, scale: Any, message: str) -> None:
    with pytest.raises(
        UserError, match=rf"^Role.scale={scale!r}: for init={init!r} it .*{message}"
    ):
        Role(init=init, scale=scale)


def test_a_rate_that_is_baked_in_keeps_the_matched_size() -> None:
    made = {}
    for bake in (False, True):
        role = Role(init="principal", scale="matched", lr_ratio=3.0)
        config = AILoRAConfig(r=4, lora_alpha=8, bake_rates=bake, roles={"q": role})
        selection = select(tiny(), config)
        (one,) = (one for one in selection.chosen if one.projection.key == Q0)
        factors = make_factors(selection)[Q0]
        made[bake] = one.scaling * (factors.B @ factors.A)
    torch.testing.assert_close(made[True], made[False], rtol=0, atol=1e-12)


def first_steps(role: Role, alpha: float, seeds: int) -> dict[str, float]:
    """||dW|| of the first step of Adam on MiniLM and sentences, by layer: the mean over seeds."""
    lengths: dict[str, list[float]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        roles = {"q": role, "v": role}
        config = AILoRAConfig(r=8, lora_alpha=alpha, roles=roles, task_type="SEQ_CLS")
        model = ailora.get_peft_model(encoder(), config)
        before = {p.name: update(model, p) for p in find_projections(encoder(), ["q", "v"])}
        factors = [p for n, p in model.named_parameters() if "lora_" in n and p.requires_grad]
        optimizer = Adam(factors, lr=1e-4)
        model(**sentences(labels=True)).loss.backward()
        optimizer.step()
        for p in find_projections(encoder(), ["q", "v"]):
            moved = torch.linalg.norm(update(model, p) - before[p.name])
            lengths.setdefault(p.name, []).append(float(moved))
    return {name: fmean(values) for name, values in lengths.items()}


@torch.no_grad()
def update(model: nn.Module, projection: Projection) -> torch.Tensor:
    layer = model.get_base_model().get_submodule(projection.name)
    A, B = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    return layer.scaling["default"] * (B @ A)


def check_first_steps(inits: tuple[str, ...], alphas: tuple[float, ...], seeds: int) -> None:
    for alpha in alphas:
        plain = first_steps(Role(init="gaussian"), alpha, seeds)
        for init in inits:
            found = first_steps(Role(init=init, scale="matched"), alpha, seeds)
            ratios = [found[name] / plain[name] for name in plain]
            assert min(ratios) > 0.9 and max(ratios) < 1.1, (init, alpha, ratios)


def test_a_matched_start_moves_a_layer_as_far_as_lora_does_in_the_first_step() -> None:
    check_first_steps(("principal", "minor"), (8,), 2)
    plain = first_steps(Role(init="gaussian"), 8, 1)
    sigma = first_steps(Role(init="principal"), 8, 1)  # the paper's size goes much further
    assert min(sigma[name] / plain[name] for name in plain) > 1.5


@pytest.mark.slow
def test_every_matched_start_moves_a_layer_as_far_whatever_the_scale_of_the_update() -> None:
    check_first_steps(SPECTRAL, (4, 8, 16), 5)


def test_the_table_names_every_start_that_can_have_a_size() -> None:
    assert {name for name, kind in STARTS.items() if "unit" in kind.scales} == set(SPECTRAL)
