"""Eqs. 2 and 5 of the paper, and what is refused before a model is touched."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from torch.multiprocessing import start_processes

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.selection import Chosen, select
from ailora.adapters.starting_factors import make_factors
from ailora.adapters.starts import STARTS, Factors, StartKind, Wanted, decompose_once
from ailora.errors import UserError
from ailora.linalg.triplets import Part
from ailora.roles import Projection
from tests.adapters.models import (
    Q0,
    V0,
    base_weights,
    check_a_start,
    same,
    tiny,
)

Array = NDArray[np.float64]
WEIGHT = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))


def part_of(weight: torch.Tensor, rank: int, part: str) -> tuple[Array, Array]:
    """(the part, the remaining singular values), by numpy in fp64."""
    U, S, Vt = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
    taken = slice(0, rank) if part == "principal" else slice(len(S) - rank, len(S))
    return (U[:, taken] * S[taken]) @ Vt[taken], np.delete(S, np.arange(len(S))[taken])


def starts(model: nn.Module, config: AILoRAConfig) -> dict[str, tuple[Chosen, Factors]]:
    selection = select(model, config)
    made = make_factors(selection)
    return {one.projection.key: (one, made[one.projection.key]) for one in selection.chosen}


def start_of(config: AILoRAConfig, name: str) -> tuple[Chosen, Factors]:
    return starts(tiny(), config)[name]


@pytest.mark.parametrize("part", ["principal", "minor"])
@pytest.mark.parametrize(("rank", "alpha"), [(1, None), (4, None), (4, 8), (3, 1), (32, 5)])
def test_the_scaled_product_is_the_part_and_the_residual_is_all_the_rest(
    part: str, rank: int, alpha: float | None
) -> None:
    model = tiny()
    config = AILoRAConfig(r=rank, lora_alpha=alpha, roles={"q": Role(init=part)})  # type: ignore[arg-type]
    for name, (one, start) in starts(model, config).items():
        weight = model.get_submodule(name).weight
        wanted, others = part_of(weight, rank, part)
        got = one.scaling * (start.B @ start.A).numpy()
        np.testing.assert_allclose(got, wanted, atol=1e-10)
        residual = np.linalg.svd(weight.detach().numpy() - got, compute_uv=False)
        np.testing.assert_allclose(residual[: len(others)], others, atol=1e-10)
        assert residual[len(others) :].max(initial=0) < 1e-10


def test_the_singular_values_are_shared_evenly_by_both_factors() -> None:
    _, start = start_of(AILoRAConfig(r=4, lora_alpha=12), Q0)
    S = torch.linalg.svdvals(tiny().get_submodule(Q0).weight)[:4] / 3
    torch.testing.assert_close(start.A @ start.A.T, torch.diag(S), rtol=0, atol=1e-9)
    torch.testing.assert_close(start.B.T @ start.B, torch.diag(S), rtol=0, atol=1e-9)


def test_each_role_has_its_own_rank_alpha_and_rate() -> None:
    roles = {
        "q": Role(init="principal", r=2, lora_alpha=6),
        "v": Role(init="minor", r=3, lr_ratio=4),
    }
    config = AILoRAConfig(r=8, lora_alpha=12, roles=roles)
    (q, made), (v, _) = start_of(config, Q0), start_of(config, V0)
    assert (q.rank, q.scaling, q.lr_ratio) == (2, 3.0, 1.0)
    assert (v.rank, v.scaling, v.lr_ratio) == (3, 4.0, 4.0)
    assert (made.A.shape, made.B.shape) == ((2, 32), (32, 2))


def test_rank_and_scale_fall_back_from_role_to_pattern_to_config_to_rank() -> None:
    config = AILoRAConfig(
        r=8,
        lora_alpha=4,
        rank_pattern={"key": 6, "query": 7, "layer.1.attention.self.value": 4},
        alpha_pattern={"output.dense": 9, "query": 1},
        roles={
            "q": Role(init="principal", r=2, lora_alpha=3),
            "k": Role(init="minor"),
            "v": Role(init="minor", lora_alpha=24),
            "o": Role(init="gaussian", r=2),
        },
    )
    found = {key: (one.rank, one.scaling) for key, one in chosen(config).items()}
    name = "bert.encoder.layer.{}.attention.{}"
    assert found == {
        name.format(0, "self.query"): (2, 1.5),  # the role's own beats both patterns
        name.format(1, "self.query"): (2, 1.5),
        name.format(0, "self.key"): (6, 4 / 6),
        name.format(1, "self.key"): (6, 4 / 6),
        name.format(0, "self.value"): (8, 3.0),
        name.format(1, "self.value"): (4, 6.0),
        name.format(0, "output.dense"): (2, 4.5),
        name.format(1, "output.dense"): (2, 4.5),
    }
    for rank in (5, 9):  # without lora_alpha the scale is 1, whatever the rank
        assert {one.scaling for one in chosen(AILoRAConfig(r=rank)).values()} == {1.0}


def chosen(config: AILoRAConfig) -> dict[str, Chosen]:
    return {one.projection.key: one for one in select(tiny(), config).chosen}


def test_only_the_layers_asked_for_are_adapted() -> None:
    found = starts(tiny(), AILoRAConfig(r=2, layers_to_transform=[1]))
    assert set(found) == {name.replace("layer.0", "layer.1") for name in (Q0, V0)}
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=2, layers_to_transform=[1]))
    wrapped = {name.split(".lora_")[0] for name, _ in model.named_modules() if ".lora_A" in name}
    assert {name.removeprefix("base_model.model.") for name in wrapped} == {
        name.replace("layer.0", "layer.1") for name in (Q0, V0)
    }


def test_the_files_say_the_rank_and_alpha_that_most_layers_have() -> None:
    roles = {name: Role(init="minor") for name in "qk"}
    roles["v"] = Role(init="minor", r=5, lora_alpha=10)
    config = AILoRAConfig(r=2, roles=roles, anchored=False)
    stock = ailora.get_peft_model(tiny(), config).peft_config["default"]
    assert (stock.r, set(stock.rank_pattern.values())) == (2, {5})
    assert (stock.lora_alpha, set(stock.alpha_pattern.values())) == (2, {10})


def test_layers_with_ranks_of_their_own_reach_just_their_modules() -> None:
    roles = {"q": Role(init="principal", r=3), "v": Role(init="gaussian", r=5, lora_alpha=10)}
    model = ailora.get_peft_model(tiny(), AILoRAConfig(roles=roles))
    for layer in (0, 1):
        q = model.get_base_model().get_submodule(Q0.replace("0", str(layer)))
        v = model.get_base_model().get_submodule(V0.replace("0", str(layer)))
        assert (q.r["default"], q.scaling["default"]) == (6, 1.0)
        assert (v.r["default"], v.scaling["default"]) == (5, 2.0)


def test_baked_factors_are_divided_by_the_rate_and_the_scale_makes_up_for_it() -> None:
    groups, baked = (
        start_of(AILoRAConfig(r=4, lora_alpha=8, bake_rates=bake), V0) for bake in (False, True)
    )
    assert torch.equal(baked[1].A, groups[1].A / 2)
    assert torch.equal(baked[1].B, groups[1].B / 2)
    assert (groups[0].scaling, baked[0].scaling) == (2.0, 8.0)
    assert (groups[0].lr_ratio, baked[0].lr_ratio) == (2.0, 1.0)


def test_gaussian_starts_have_pefts_spread_and_nothing_to_add() -> None:
    config = AILoRAConfig(r=32, roles={"q": Role(init="gaussian")})
    found = starts(tiny(), config).values()
    values = torch.cat([start.A.flatten() for _, start in found])
    assert float(values.std()) == pytest.approx((3 * 32) ** -0.5, rel=0.1)
    assert float(values.mean()) == pytest.approx(0, abs=0.01)
    assert not any(start.B.any() or one.is_spectral for one, start in found)


def test_a_rank_above_the_weights_size_is_refused_with_the_module_and_the_limit() -> None:
    with pytest.raises(UserError) as caught:
        ailora.get_peft_model(tiny(), AILoRAConfig(r=33))
    assert str(caught.value) == (
        f"r=33 for role 'q' is above what {Q0} has: its weight is 32 x 32, so r can be at most 32"
    )


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_weight_is_named_and_the_model_stays_as_it_was(anchored: bool, bad: float) -> None:
    model = tiny()
    last = V0.replace("layer.0", "layer.1")
    with torch.no_grad():
        model.get_submodule(last).weight[2, 3] = bad
    before, modules = base_weights(model), [type(module) for module in model.modules()]
    needs_grad = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(UserError, match=f"^{last} \\(v\\): .*1 ") as caught:
        ailora.get_peft_model(model, AILoRAConfig(r=2, anchored=anchored))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == modules
    assert [parameter.requires_grad for parameter in model.parameters()] == needs_grad
    for name, value in base_weights(model).items():
        assert torch.equal(value.nan_to_num(7), before[name].nan_to_num(7)), name


def test_dead_triplets_are_reported_with_the_module_and_the_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny()
    with torch.no_grad():
        model.get_submodule(V0).weight[:, 3:] = 0  # rank 3 of 32
    with caplog.at_level(logging.WARNING, logger="ailora"):
        found = starts(model, AILoRAConfig(r=4))
    dead = {name: start.dead for name, (_, start) in found.items() if start.dead}
    assert dead == {V0: 4}
    assert [record.message for record in caplog.records if "dead" in record.message] == [
        "dead triplets: the weight has singular values of zero there, so these factors start at "
        f"zero and never learn: {V0} 4 of 4. A smaller r or init='gaussian' avoids it."
    ]
    caplog.clear()
    roles = {"v": Role(init="minor", scale="unit")}  # of a size of its own
    starts(model, AILoRAConfig(r=4, roles=roles))
    assert not caplog.records


def test_no_dead_triplet_is_reported_for_weights_of_full_rank(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="ailora"):
        starts(tiny(), AILoRAConfig(r=4))
    assert not caplog.records


@pytest.mark.parametrize("anchored", [True, False])
def test_an_all_zero_weight_works_and_starts_at_the_base(anchored: bool, tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.get_submodule(V0).weight.zero_()
    before = base_weights(model)
    wrapped = ailora.get_peft_model(
        model,
        AILoRAConfig(
            r=2,
            anchored=anchored,
            roles={  # type: ignore[arg-type]
                "v": Role(init="minor")
            },
            layers_to_transform=[0],
        ),
    )
    assert same(base_weights(wrapped), before)
    wrapped.save_pretrained(tmp_path)
    assert (tmp_path / "ailora.json").exists()


def _one_of_two(rank: int, folder: Path, part: Part) -> None:
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    weight = WEIGHT if rank == 0 else WEIGHT.to("meta")
    (found,) = decompose_once(weight, 3, part, 1e-8)
    answer = {"U": found.U, "S": found.S, "Vt": found.Vt}
    with pytest.raises(UserError, match="NaN or Inf"):
        decompose_once(weight * float("nan"), 3, part, 1e-8)
    dist.destroy_process_group()
    save_file(answer, folder / str(rank))


@pytest.mark.parametrize("part", get_args(Part))
def test_of_several_processes_the_first_decomposes_for_all(part: Part, tmp_path: Path) -> None:
    """As with FSDP, which may load the weights in the first alone."""
    start_processes(_one_of_two, (tmp_path, part), nprocs=2, start_method="fork")
    (alone,) = decompose_once(WEIGHT, 3, part, 1e-8)
    for rank in "01":
        found = load_file(tmp_path / rank)
        assert all(torch.equal(getattr(alone, name), found[name]) for name in ("U", "S", "Vt"))


def test_another_kind_of_config_is_refused() -> None:
    with pytest.raises(UserError, match=r"^config is a dict: give an ailora.AILoRAConfig"):
        ailora.get_peft_model(tiny(), {"r": 8})  # type: ignore[arg-type]


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("init", [name for name, kind in STARTS.items() if kind.make is not None])
def test_every_start_begins_at_the_base_and_comes_back_from_its_files(
    init: str, anchored: bool, tmp_path: Path
) -> None:
    check_a_start(Role(init=init), anchored, tmp_path)


@pytest.mark.parametrize("init", STARTS)
def test_the_table_says_rightly_which_products_are_zero(init: str) -> None:
    kind = STARTS[init]
    if kind.make is None:
        with pytest.raises(UserError, match=f"Role.init='{init}': only saved adapters have it"):
            start_of(AILoRAConfig(r=2, roles={"q": Role(init=init)}), Q0)
        return
    one, start = start_of(AILoRAConfig(r=2, roles={"q": Role(init=init)}), Q0)
    assert (start.A.shape, start.B.shape) == ((2, 32), (32, 2))
    assert one.anchored is one.is_spectral is not kind.zero
    assert bool((start.B @ start.A).any()) is not kind.zero


@pytest.mark.parametrize("anchored", [True, False])
def test_a_row_of_the_table_is_all_that_a_new_start_needs(
    anchored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def random(projection: Projection, wanted: Wanted) -> Factors:
        m, n = projection.shape
        return Factors(
            A=torch.randn(wanted.rank, n) / wanted.scaling, B=torch.randn(m, wanted.rank)
        )

    with pytest.raises(UserError, match=r"Role.init='random': must be one of "):
        Role(init="random")
    monkeypatch.setitem(STARTS, "random", StartKind(make=random))  # type: ignore[arg-type]
    check_a_start(Role(init="random"), anchored, tmp_path)
