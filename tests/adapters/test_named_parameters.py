"""Factors are parameters of PEFT's names: who saves, loads or writes them by name means them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ailora
from ailora import presets
from ailora.errors import UserError
from tests.adapters.models import (
    Q0,
    V0,
    base_weights,
    batch,
    factors,
    logits,
    parts,
    tiny,
    train,
    trained,
)

ROLES = {"roles": presets.ailora().roles}


def by_name(model: nn.Module, word: str = "lora_") -> dict[str, Tensor]:
    """As FastChat's, LLaVA's and Qwen's scripts gather an adapter."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if word in name
    }


def of_config(**fields: Any) -> PeftModel:
    return ailora.get_peft_model(tiny(), presets.ailora(2, lora_alpha=5, **fields))


# --- Saving and loading ----------------------------------------------------------------------


def test_the_names_and_shapes_are_pefts(tmp_path: Path) -> None:
    model = trained(**ROLES)
    model.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path), is_trainable=True)
    ours, theirs = by_name(model), by_name(stock)
    assert ours.keys() == theirs.keys() and len(ours) == 8
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert get_peft_model_state_dict(model).keys() == get_peft_model_state_dict(stock).keys()


def test_a_state_dict_gathered_by_name_is_saved_as_the_adapter(tmp_path: Path) -> None:
    model = trained(**ROLES)
    after = logits(model, batch(model))
    model.save_pretrained(tmp_path, state_dict=by_name(model))
    assert (tmp_path / "ailora.json").exists()
    for again in (
        PeftModel.from_pretrained(tiny(), str(tmp_path)),
        ailora.load_adapter(tiny(), tmp_path, is_trainable=True),
    ):
        assert torch.equal(logits(again, batch(again)), after)


def torch_file(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    torch.save(tensors, folder / "adapter.pt")
    return torch.load(folder / "adapter.pt")


def safetensors_file(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    save_file(tensors, folder / "adapter.safetensors")
    return load_file(folder / "adapter.safetensors")


@pytest.mark.parametrize("through", [torch_file, safetensors_file])
@pytest.mark.parametrize("gather", ["by name", "trainable", "peft"])
def test_what_was_gathered_by_name_is_loaded_by_name(
    through: Callable[..., dict[str, Tensor]], gather: str, tmp_path: Path
) -> None:
    model = trained(**ROLES)
    after = logits(model, batch(model))
    again = of_config()
    assert not torch.equal(logits(again, batch(again)), after)
    if gather == "peft":
        found = through(get_peft_model_state_dict(model), tmp_path)
        assert not set_peft_model_state_dict(again, found).unexpected_keys
    else:
        gathered = by_name(model) if gather == "by name" else {
            name: p.detach() for name, p in model.named_parameters() if p.requires_grad
        }  # fmt: skip
        result = again.load_state_dict(through(gathered, tmp_path), strict=False)
        assert not result.unexpected_keys
        assert not any("lora_" in name for name in result.missing_keys)
    assert torch.equal(logits(again, batch(again)), after)
    assert train(again, batch(again), 2) == train(model, batch(model), 2)


def test_the_whole_models_state_dict_comes_back() -> None:
    model, stream = trained(**ROLES), io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    again = of_config()
    again.load_state_dict(torch.load(stream))
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))


def test_averaged_weights_are_those_of_the_average() -> None:
    """EMA and SWA go over parameters by name: here the average of one model with itself."""
    model = trained(**ROLES)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(2):
        averaged.update_parameters(model)
    found, wanted = logits(averaged.module, batch(model)), logits(model, batch(model))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    train(model, batch(model), 3)
    averaged.update_parameters(model)
    assert not torch.allclose(logits(averaged.module, batch(model)), wanted)


# --- Writes count ----------------------------------------------------------------------------


def assign(weight: Tensor, value: Tensor) -> None:
    weight.data = value.clone()


def slice_assign(weight: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        weight[...] = value


def data_copy(weight: Tensor, value: Tensor) -> None:
    weight.data.copy_(value)


def copy_(weight: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(value)


@pytest.mark.parametrize("write", [assign, slice_assign, data_copy, copy_])
def test_a_written_matrix_is_what_is_computed_with_merged_and_saved(
    write: Callable[[Tensor, Tensor], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained(**ROLES)
    A, B = factors(model, Q0)
    new_A, new_B = torch.randn_like(A.weight), torch.randn_like(B.weight)
    write(A.weight, new_A), write(B.weight, new_B)
    layer = model.get_base_model().get_submodule(Q0)
    wanted = layer.scaling["default"] * new_B @ new_A
    torch.testing.assert_close(layer.get_delta_weight("default"), wanted)
    after = logits(model, batch(model))
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "ailora.json").exists()
    assert f"the frozen half of {Q0} was written over or trained" in caplog.text
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path))
    assert torch.equal(logits(stock, batch(stock)), after)


@pytest.mark.parametrize("init", [nn.init.zeros_, nn.init.normal_, nn.init.kaiming_uniform_])
def test_an_initialisation_from_outside_counts(init: Callable[[Tensor], Tensor]) -> None:
    model = trained(**ROLES)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            init(module.lora_B["default"].weight)
    after = logits(model, batch(model))
    is_base = torch.equal(after, logits(tiny(), batch(model)))
    assert is_base is (init is nn.init.zeros_)
    assert not torch.allclose(after, logits(trained(**ROLES), batch(model)))


def test_pefts_own_reset_makes_a_plain_start(tmp_path: Path) -> None:
    model = trained(**ROLES)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters("default", True)
    assert torch.equal(logits(model, batch(model)), logits(tiny(), batch(model)))
    assert not any(part.modules[1].weight.any() for part in parts(model).values())
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "ailora.json").exists()


def test_relora_merges_and_resets_and_learns_on() -> None:
    """Lialin et al.: merge B A into W, start the factors anew, go on; W keeps what was learnt."""
    model = trained(**ROLES)
    learnt = logits(model, batch(model))
    for module in list(model.modules()):
        if isinstance(module, LoraLayer):
            base = module.get_base_layer()
            base.weight.data += module.get_delta_weight("default")
            nn.init.kaiming_uniform_(module.lora_A["default"].weight, a=5**0.5)
            nn.init.zeros_(module.lora_B["default"].weight)
    torch.testing.assert_close(logits(model, batch(model)), learnt, rtol=0, atol=1e-12)
    losses = train(model, batch(model), 8)
    assert losses[-1] < losses[0]


def test_a_write_of_what_trains_alone_keeps_the_marker(tmp_path: Path) -> None:
    """The negative control: these are not the frozen halves."""
    model = trained(**ROLES)
    A, B = factors(model, Q0)
    with torch.no_grad():
        A.weight += torch.randn_like(A.weight[:2]).repeat(2, 1)
        B.weight[:, :2] = 0.3
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))


def test_an_older_marker_does_not_stay_beside_weights_that_were_written(tmp_path: Path) -> None:
    model = trained(**ROLES)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "ailora.json").exists()
    nn.init.normal_(factors(model, V0)[1].weight)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "ailora.json").exists()


@pytest.mark.parametrize("anchored", [True, False])
def test_pefts_conversion_of_a_start_is_saved_as_the_plain_lora_it_is(
    anchored: bool, tmp_path: Path
) -> None:
    """PEFT's way from a residual base to the original: its file is right, and no marker lies."""
    model = ailora.get_peft_model(tiny(), presets.pissa(2, anchored=anchored))
    model.save_pretrained(tmp_path / "start")
    train(model, batch(model), 3)
    after, weights = logits(model, batch(model)), base_weights(model)
    model.save_pretrained(
        tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path / "out"))
    torch.testing.assert_close(logits(stock, batch(stock)), after, rtol=0, atol=1e-10)
    assert not (tmp_path / "out/ailora.json").exists()
    assert not (tmp_path / "out/ailora_anchor.safetensors").exists()
    readme = tmp_path / "out/README.md"
    assert "wrong on the original base model" not in readme.read_text()
    now = base_weights(model)
    assert all(torch.equal(weights[name], now[name]) for name in weights)
    assert torch.equal(logits(model, batch(model)), after)


# --- Optimisers that know factors by name ----------------------------------------------------


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(**batch(model)).loss.backward()
    optimizer.step()


@pytest.mark.parametrize(("rate", "heard"), [(1e-3, True), (None, False)])
def test_lora_plus_at_one_rate_for_q_and_v_is_warned_of(
    rate: float | None, heard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its two rates are for A and B, and do not hide that both roles have one."""
    model = of_config(bake_rates=rate is None)
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=0.1
    )
    before = {key: part.A0.clone() for key, part in parts(model).items()}
    one_step(model, optimizer)
    assert ("at one rate" in caplog.text) is heard
    for key, part in parts(model).items():  # its decay leaves the anchors alone all the same
        torch.testing.assert_close(part.A0, before[key], rtol=0, atol=1e-12)


def riemannian(model: PeftModel) -> torch.optim.Optimizer:
    module = pytest.importorskip("peft.optimizers.riemannian", reason="newer than this PEFT")
    return module.create_riemannian_optimizer(model, torch.optim.SGD, lr=1e-2)


def lora_fa(model: PeftModel) -> torch.optim.Optimizer:
    return create_lorafa_optimizer(model, r=2, lora_alpha=4, lr=1e-3)


@pytest.mark.parametrize("make", [riemannian, lora_fa])
def test_optimisers_that_compute_with_a_and_b_are_refused_by_name(
    make: Callable[[PeftModel], torch.optim.Optimizer],
) -> None:
    model = of_config()
    start, optimizer = by_name(model), make(model)
    with pytest.raises(UserError, match=r"^(Riemannian|LoraFA)\w+ computes with [^\n]*anchored=F"):
        one_step(model, optimizer)
    assert all(torch.equal(value, start[name]) for name, value in by_name(model).items())
    folded = of_config(anchored=False)
    one_step(folded, make(folded))
    plain = ailora.get_peft_model(tiny(), presets.lora(2))
    one_step(plain, make(plain))
