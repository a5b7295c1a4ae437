"""PEFT's starts made without touching the base, against PEFT's own form of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, LoraGAConfig
from peft.tuners.lora import preprocess_loraga
from peft.tuners.lora.config import CordaConfig
from torch import Tensor, nn

from ailora.adapters import AILoRAConfig, Role, get_peft_model
from ailora.adapters.peft_insides import lora_layers
from ailora.adapters.update import role_updates
from ailora.errors import UserError
from ailora.lab.methods import METHODS, load, save
from ailora.lab.methods.peft_starts import rows_of, token_mask
from ailora.lab.settings import RunConfig
from ailora.roles import unwrapped
from tests.adapters.models import logits
from tests.lab.methods.models import SMALL, adapted, batch_of, fresh, step

FIELDS: dict[str, Any] = {
    "r": SMALL["rank"],
    "lora_alpha": 2 * SMALL["rank"],
    "target_modules": ["q_proj", "v_proj"],
}
SCALED = {"lora_alpha": 2.0 * SMALL["rank"]}


def olora(model: nn.Module, batch: dict[str, Tensor]) -> LoraConfig:
    return LoraConfig(init_lora_weights="olora", **FIELDS)


def lora_ga(model: nn.Module, batch: dict[str, Tensor]) -> LoraConfig:
    config = LoraConfig(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(), **FIELDS)
    preprocess_loraga(model, config, lambda: model(**batch).loss.backward())
    return config


def corda(model: nn.Module, batch: dict[str, Tensor]) -> LoraConfig:
    corda_module = pytest.importorskip("peft.tuners.lora.corda")
    config = LoraConfig(
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="ipm", verbose=False),
        **FIELDS,
    )

    def run() -> None:
        for length, row in zip(batch["attention_mask"].sum(1), batch["input_ids"], strict=True):
            model(input_ids=row[None, :length])

    corda_module.preprocess_corda(model, config, run)
    return config


Oracle = Callable[[nn.Module, dict[str, Tensor]], LoraConfig]
subtracted = pytest.mark.parametrize("oracle", [olora, lora_ga, corda])


def both(oracle: Oracle) -> tuple[nn.Module, nn.Module]:
    """Ours, and PEFT's own with its changed base."""
    batch, base = batch_of("llama"), fresh("llama")
    torch.manual_seed(0)
    theirs = peft.get_peft_model(base, oracle(base, batch)).eval()
    pytest.importorskip("attr") if oracle is corda else None
    return adapted("llama", oracle.__name__, **SCALED), theirs


def products(model: nn.Module) -> dict[str, Tensor]:
    """S B A of what is trained: of anchored factors, A0 + D_A and B0 + D_B."""
    return {
        update.projection.name: (update.change.scale * update.B @ update.A).float()
        for update in role_updates(model)
    }


@subtracted
def test_the_factors_are_pefts(oracle: Oracle) -> None:
    ours, theirs = map(products, both(oracle))
    assert ours.keys() == theirs.keys()
    for name, product in ours.items():
        torch.testing.assert_close(product, theirs[name], atol=1e-4 * product.abs().max(), rtol=0)
        assert product.abs().max() > 1e-3, "or the comparison says nothing"


@subtracted
def test_training_takes_the_same_way_as_with_pefts_changed_base(oracle: Oracle) -> None:
    ours, theirs = both(oracle)
    batch = batch_of("llama")
    before = logits(ours, batch)
    torch.testing.assert_close(logits(theirs, batch), before, atol=1e-5, rtol=0)
    for model in (ours, theirs):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    after = logits(ours, batch)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, logits(theirs, batch), atol=1e-3, rtol=0)


@subtracted
def test_nothing_of_the_preparation_stays_on_the_base(oracle: Oracle) -> None:
    pytest.importorskip("attr") if oracle is corda else None
    model = adapted("llama", oracle.__name__)
    left = {"eigens", "_peft_loraga_grad", "covariance_matrix", "sample_count", "rank"}
    for module in model.modules():
        assert not left & vars(module).keys()
        assert module.training is False


def test_folded_changes_the_base_as_pefts_does() -> None:
    model = adapted("llama", "olora", anchored=False)
    clean = fresh("llama").model.layers[0].self_attn.q_proj.weight
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert not torch.equal(layer.base_layer.weight, clean)
    restored = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(restored, clean, atol=1e-6, rtol=0)


def test_lora_ga_needs_labels() -> None:
    batch = {name: value for name, value in batch_of("llama").items() if name != "labels"}
    with pytest.raises(UserError, match="method 'lora_ga' needs batches with labels"):
        METHODS["lora_ga"].build(fresh("llama"), RunConfig(rank=2), lambda: [batch])


def test_eva_needs_as_many_tokens_as_a_layer_may_have_ranks() -> None:
    batch = batch_of("llama")
    with pytest.raises(UserError, match=r"needs batches of 40 tokens or more, and one has 34"):
        METHODS["eva"].build(fresh("llama"), RunConfig(rank=20), lambda: [batch])


def test_evas_rows_are_what_the_inputs_vary_in_most() -> None:
    """The first layer's q and v see the same inputs: their span is that of a plain PCA."""
    batch, inputs = batch_of("llama"), []
    model = fresh("llama")
    first = model.model.layers[0].self_attn.q_proj
    handle = first.register_forward_hook(lambda _m, given, _o: inputs.append(given[0]))
    logits(model, batch)
    handle.remove()
    seen = inputs[0][batch["attention_mask"].bool()].double()
    principal = torch.linalg.svd(seen - seen.mean(0), full_matrices=False).Vh
    layers = lora_layers(unwrapped(adapted("llama", "eva")), "default")
    A = layers["model.layers.0.self_attn.q_proj"].lora_A["default"].weight.double()
    torch.testing.assert_close(A @ A.T, torch.eye(len(A), dtype=A.dtype), atol=1e-4, rtol=0)
    inside = torch.linalg.norm(A @ principal[: len(A)].T) ** 2 / len(A)
    assert inside > 0.99
    outside = torch.linalg.norm(A @ principal[-len(A) :].T) ** 2 / len(A)
    assert outside < 0.01


@pytest.mark.parametrize("name", ["eva", "corda"])
def test_padding_does_not_move_a_start(name: str) -> None:
    pytest.importorskip("attr") if name == "corda" else None
    batch = batch_of("llama")
    longer = {
        key: torch.nn.functional.pad(value, (0, 6), value=-100 if key == "labels" else 0)
        for key, value in batch.items()
    }
    found = []
    for data in (batch, longer):
        torch.manual_seed(0)
        model = METHODS[name].build(fresh("llama"), RunConfig(**SMALL), lambda data=data: [data])
        factors = {u.projection.name: u.A for u in role_updates(model)}
        found.append({key: A.T @ A for key, A in factors.items()})
    assert found[0].keys() == found[1].keys()
    for key, gram in found[0].items():
        torch.testing.assert_close(found[1][key], gram, atol=1e-3 * gram.abs().max(), rtol=0)


def test_rows_lose_their_padding_and_keep_their_labels() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": torch.tensor([[1, 2, -100, -100], [3, 4, 5, -100]]),
    }
    second = list(rows_of(batch))[1]
    assert second["input_ids"].tolist() == [[8, 9]]
    assert second["labels"].tolist() == [[3, 4, 5]]
    mask = token_mask(batch, torch.Size((2, 4)))
    assert mask is not None
    assert mask.sum() == 5
    assert token_mask(batch, torch.Size((2, 9))) is None
    classes = {**batch, "labels": torch.tensor([0, 1])}
    assert list(rows_of(classes))[1]["labels"].tolist() == [1]


def test_the_orthogonal_start_has_no_zero_factor() -> None:
    for layer in lora_layers(adapted("minilm", "orthogonal"), "default").values():
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert A.norm() > 1
        assert B.norm() > 1
        assert (B @ A).abs().max() < 1e-5
    with pytest.raises(UserError, match="rank=3: method 'orthogonal' needs an even rank"):
        adapted("minilm", "orthogonal", rank=3)


def test_micas_b_is_minor_and_stays() -> None:
    model = adapted("llama", "mica")
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    B = layer.lora_B["default"].weight.detach().clone()
    U = torch.linalg.svd(layer.base_layer.weight.double()).U
    assert torch.linalg.norm(U[:, -4:].T @ B.double()) ** 2 == pytest.approx(4, abs=1e-5)
    step(model, batch_of("llama"), 2, 1e-2)
    assert torch.equal(layer.lora_B["default"].weight, B)
    assert layer.lora_A["default"].weight.abs().max() > 0


def test_a_rank_above_a_weight_is_refused() -> None:
    for name in ("olora", "mica"):
        with pytest.raises(UserError, match=r"=20.* can be (16 )?at most"):
            METHODS[name].build(fresh("llama"), RunConfig(rank=20), None)


def test_the_model_is_left_alone_when_a_start_is_refused() -> None:
    model = fresh("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError):
        METHODS["olora"].build(model, RunConfig(rank=20), None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model, "peft_config")


@subtracted
@pytest.mark.parametrize("anchored", [True, False])
def test_files_say_which_start_it_was(anchored: bool, oracle: Oracle, tmp_path: Path) -> None:
    pytest.importorskip("attr") if oracle is corda else None
    name = oracle.__name__
    model = adapted("llama", name, anchored=anchored)
    step(model, batch_of("llama"), 2, 1e-2)
    save(model, tmp_path)
    marker = json.loads((tmp_path / "ailora.json").read_text(encoding="utf-8"))
    assert {role["init"] for role in marker["config"]["roles"].values()} == {name}
    assert f"'q': Role(init='{name}')" in (tmp_path / "README.md").read_text(encoding="utf-8")
    again = load(fresh("llama"), tmp_path, is_trainable=True).eval()
    batch = batch_of("llama")
    torch.testing.assert_close(logits(again, batch), logits(model, batch), atol=1e-6, rtol=0)


def test_a_start_that_only_files_have_is_not_asked_of_get_peft_model() -> None:
    model = fresh("llama")
    config = AILoRAConfig(r=2, roles={"q": Role(init="olora")})
    with pytest.raises(UserError, match="'olora': only saved adapters have it") as caught:
        get_peft_model(model, config)
    assert "\n" not in str(caught.value)
    assert not hasattr(model, "peft_config")
