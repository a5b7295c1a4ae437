"""An adapter remembers its base: casts of it are known, others and later trainings are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

import ailora
from ailora import AILoRAConfig, Role
from ailora.adapters.fingerprints import EXACT, Base, compare, compare_weight, fingerprint
from ailora.errors import UserError
from tests.adapters.models import Q0, V0, base_weights, batch, encoder, logits, same, tiny, trained


def weight(rows: int = 96, columns: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.02 * torch.randn(rows, columns, generator=generator)


NUMBERS = (-0.25, 0.0, 0.0, -0.25)
CASTS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("started", CASTS)
@pytest.mark.parametrize("found", CASTS)
def test_a_cast_of_a_weight_is_the_same_weight(started: torch.dtype, found: torch.dtype) -> None:
    W = weight()
    told = compare_weight(fingerprint(W.to(started)), W.to(found))
    assert not told.differs
    two_roundings = {started, found} == {torch.bfloat16, torch.float16}
    assert told.is_unclear is two_roundings
    back = compare_weight(fingerprint(W.to(started)), W.to(started).to(found))
    assert not back.differs  # as a model in 16 bits that someone loads in 32


@pytest.mark.parametrize("started", CASTS)
@pytest.mark.parametrize("found", CASTS)
@pytest.mark.parametrize("by", [1.0, 0.03])
def test_a_trained_weight_is_another(started: torch.dtype, found: torch.dtype, by: float) -> None:
    W = weight()
    changed = W + by * weight(seed=1)
    told = compare_weight(fingerprint(W.to(started)), changed.to(found))
    assert told.differs
    assert 0.2 * by < told.moved < 4 * by


@pytest.mark.parametrize("found", CASTS[:3])
def test_one_step_of_a_small_rate_shows_in_32_bits_and_after_a_cast(found: torch.dtype) -> None:
    W = weight()
    changed = W + 1e-5 * torch.sign(weight(seed=1))
    assert compare_weight(fingerprint(W), changed.to(found)).differs


def test_quantised_weights_say_what_they_cannot_tell() -> None:
    W = weight()
    noisy = W + 0.1 * weight(seed=1)  # as large as the rounding of four bits
    remembered = fingerprint(W)
    assert compare(remembered, fingerprint(noisy, "4-bit")).is_unclear
    assert compare(remembered, fingerprint(weight(seed=2), "4-bit")).differs
    assert not compare(fingerprint(noisy, "4-bit"), fingerprint(noisy, "4-bit")).is_unclear


@pytest.mark.parametrize(
    "spoilt", [torch.zeros(96, 64), torch.full((96, 64), float("nan")), weight(columns=63)]
)
def test_zeros_nan_and_other_shapes_differ(spoilt: Tensor) -> None:
    assert compare_weight(fingerprint(weight()), spoilt).differs
    zero = fingerprint(torch.zeros(3, 4))
    assert not compare_weight(zero, torch.zeros(3, 4)).differs
    assert compare_weight(zero, torch.ones(3, 4)).differs


def test_the_numbers_of_known_weights_stay_what_files_hold() -> None:
    W = (torch.arange(12.0).reshape(3, 4) - 5) / 8
    found = fingerprint(W)
    assert found.numbers["as_it_is"] == NUMBERS
    assert found.norm == pytest.approx(float(torch.linalg.norm(W)), rel=1e-8)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_base_in_another_type_loads(
    anchored: bool, dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(anchored=anchored).save_pretrained(tmp_path)
    ailora.load_adapter(tiny(dtype), tmp_path)
    assert "fingerprints" not in caplog.text


def test_a_base_of_which_two_roundings_hide_it_is_warned_of_by_its_first_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(dtype=torch.bfloat16).save_pretrained(tmp_path)
    ailora.load_adapter(tiny(torch.float16), tmp_path)
    assert f"remembered in bfloat16, and {Q0} is stored otherwise here" in caplog.text


def test_a_stack_of_which_each_process_holds_a_piece_is_not_remembered() -> None:
    """As DeepSpeed ZeRO-3 leaves a parameter: empty, with its shape beside."""
    model, name = tiny(), f"{Q0}.weight"
    assert name in Base.of(model, [name]).layers
    weight = model.get_parameter(name)
    weight.ds_shape, weight.data = weight.shape, torch.empty(0, dtype=weight.dtype)
    assert not Base.of(model, [name]).layers


@pytest.mark.parametrize("anchored", [True, False])
def test_a_base_that_was_trained_since_is_refused_by_its_first_layer(
    anchored: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(anchored=anchored).save_pretrained(tmp_path)
    later = tiny()
    with torch.no_grad():
        for name in (V0, Q0.replace(".0.", ".1.")):
            later.get_submodule(name).weight[3, 5] += 0.01
    before = base_weights(later)
    with pytest.raises(UserError, match=r"trained since: [^\n]*$") as caught:
        ailora.load_adapter(later, tmp_path)
    assert f"{V0} is the first layer that differs" in str(caught.value)
    assert same(base_weights(later), before)
    assert not isinstance(later, PeftModel)
    caplog.clear()
    ailora.load_adapter(later, tmp_path, force=True)
    assert f"{V0} is the first layer that differs" in caplog.text


def test_another_type_of_model_is_refused_by_its_name(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path)
    other = tiny()
    other.config.model_type = "roberta"
    with pytest.raises(UserError, match="a model of type 'bert', and this is 'roberta'"):
        ailora.load_adapter(other, tmp_path)
    ailora.load_adapter(other, tmp_path, force=True)


def test_plain_lora_parts_remember_their_base_too(tmp_path: Path) -> None:
    config = AILoRAConfig(r=2, roles={"q": Role(init="gaussian"), "v": Role(init="gaussian")})
    ailora.get_peft_model(tiny(), config).save_pretrained(tmp_path)
    later = tiny()
    with torch.no_grad():
        later.get_submodule(Q0).weight *= 1.01
    with pytest.raises(UserError, match=Q0):
        ailora.load_adapter(later, tmp_path)


def test_older_files_load_as_before_and_the_card_says_what_peft_cannot(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path)
    assert "Stock PEFT cannot notice another base model" in (tmp_path / "README.md").read_text()
    marker = tmp_path / "ailora.json"
    stored = json.loads(marker.read_text())
    del stored["base"]
    marker.write_text(json.dumps(stored))
    later = tiny()
    with torch.no_grad():
        later.get_submodule(Q0).weight *= 2
    ailora.load_adapter(later, tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path)
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))


def test_a_saved_adapter_that_was_loaded_still_remembers(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path / "first")
    ailora.load_adapter(tiny(), tmp_path / "first").save_pretrained(tmp_path / "second")
    bases = [
        json.loads((tmp_path / name / "ailora.json").read_text())["base"]
        for name in ("first", "second")
    ]
    assert bases[0] == bases[1]
    assert set(bases[0]["layers"]) >= {Q0, V0}


def test_the_real_encoder_in_four_and_eight_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rounding of bitsandbytes is within what is granted, of weights that are no Gaussians."""
    functional = pytest.importorskip("bitsandbytes").functional
    model = encoder()
    for name, module in model.named_modules():
        if not name.endswith(("query", "value", "dense")):
            continue
        W = module.weight.detach()
        packed, state = functional.quantize_4bit(W, quant_type="nf4")
        four = functional.dequantize_4bit(packed, state).reshape(W.shape)
        eight = functional.int8_vectorwise_dequant(*functional.int8_vectorwise_quant(W)[:2])
        for dtype, found in (("4-bit", four), ("8-bit", eight)):
            told = compare(fingerprint(W), fingerprint(found.float(), dtype))
            assert told.is_unclear, (name, dtype, told)
            assert told.moved < 0.6 * told.tolerance


def test_a_remembered_base_costs_little_beside_its_decomposition() -> None:
    from time import process_time

    W = weight(1024, 1024)
    began = process_time()
    fingerprint(W)
    remembered = process_time() - began
    ailora.decompose(W, 8, "principal")
    assert remembered < 0.5 * (process_time() - began - remembered)
    assert EXACT == 1e-6
