"""DoRA and rsLoRA around the same starts; one more adapter from a started config."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.optim import SGD

import ailora
from ailora import presets
from ailora.errors import UserError
from tests.adapters.models import Q0, batch, factors, logits, parts, tiny, train, trained

VARIANTS = pytest.mark.parametrize(
    "fields", [{"use_dora": True}, {"use_rslora": True}, {"use_dora": True, "use_rslora": True}]
)


@VARIANTS
def test_variants_start_at_the_base_learn_and_load_in_stock_peft(
    fields: dict[str, bool], tmp_path: Path
) -> None:
    base = tiny()
    ask, inputs = batch(base, labels=False), batch(base)
    before = logits(base, ask)
    model = ailora.get_peft_model(base, presets.ailora(3, lora_alpha=6, **fields))
    assert torch.equal(logits(model, ask), before)
    train(model, inputs, 3)
    after = logits(model, ask)
    assert not torch.equal(after, before)
    model.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path))
    torch.testing.assert_close(logits(stock, ask), after, rtol=1e-9, atol=1e-9)
    again = ailora.load_adapter(tiny(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, ask), after)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_rslora_scales_by_the_square_root_of_the_rank() -> None:
    model = ailora.get_peft_model(tiny(), presets.ailora(4, lora_alpha=6, use_rslora=True))
    for role in parts(model).values():
        assert math.isclose(role.scaling, 6 / math.sqrt(4))


@VARIANTS
def test_variants_train_as_stock_peft_does_where_the_same_is_trained(
    fields: dict[str, bool], tmp_path: Path
) -> None:
    """The oracle: PEFT's own layers of rank 2r, with the frozen half held by hand."""
    ours = ailora.get_peft_model(tiny(), presets.ailora(3, lora_alpha=6, **fields))
    ours.save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(tiny(), str(tmp_path), is_trainable=True)
    ends, inputs = [], batch(ours)
    for model in (ours, stock):
        optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            model(**inputs).loss.backward()
            if model is stock:
                hold_by_hand(model)
            optimizer.step()
        ends.append(logits(model, inputs))
    assert (ends[0] - logits(tiny(), inputs)).abs().max() > 1e-4
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


def hold_by_hand(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            upper, lower = parameter.grad.chunk(2)
            parameter.grad = (upper + lower).repeat(2, 1)
        elif "lora_B" in name:
            parameter.grad[:, 3:] = 0


def test_rslora_trains_as_the_folded_form_does() -> None:
    ends = []
    for anchored in (True, False):
        config = presets.ailora(3, lora_alpha=6, use_rslora=True, anchored=anchored)
        model = ailora.get_peft_model(tiny(), config)
        train(model, batch(model), 5, lr=1e-3)
        ends.append(logits(model, batch(model, labels=False)))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


def test_rslora_without_a_number_for_alpha_is_refused() -> None:
    model = tiny()
    with pytest.raises(UserError, match=r"^use_rslora=True: give lora_alpha as a number"):
        ailora.get_peft_model(model, presets.ailora(3, use_rslora=True))
    assert "lora" not in str(model)
    roles = {"q": ailora.Role(init="principal", lora_alpha=4)}  # which is one
    ailora.get_peft_model(model, ailora.AILoRAConfig(r=3, roles=roles, use_rslora=True))


@pytest.mark.parametrize("anchored", [True, False])
def test_an_adapter_added_from_a_started_config_has_the_same_start(anchored: bool) -> None:
    model = trained(anchored=anchored)
    ask = batch(model, labels=False)
    model.add_adapter("ref", model.peft_config["default"])
    model.set_adapter("ref")
    torch.testing.assert_close(logits(model, ask), logits(tiny(), ask), rtol=1e-9, atol=1e-9)


def test_copying_parameters_by_name_copies_the_function() -> None:
    """What TRL's DPOTrainer does to keep the policy it starts from."""
    model = trained()
    ask = batch(model, labels=False)
    after = logits(model, ask)
    model.add_adapter("ref", model.peft_config["default"])
    copied = 0
    for name, parameter in list(model.named_parameters()):
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
            copied += 1
    assert copied == 8
    model.set_adapter("ref")
    assert torch.equal(logits(model, ask), after)


def test_a_copy_and_a_pickle_are_the_same_model_and_stay_apart() -> None:
    import io

    model = trained()
    ask = batch(model, labels=False)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert torch.equal(logits(twin, ask), logits(model, ask))
        A, _ = factors(twin, Q0)
        with torch.no_grad():
            A.weight += 1
        assert not torch.equal(logits(twin, ask), logits(model, ask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casting_the_whole_model_afterwards_keeps_step_0(dtype: torch.dtype) -> None:
    model = ailora.get_peft_model(tiny(torch.float32), presets.ailora(3)).to(dtype)
    ask = batch(model, labels=False)
    assert torch.equal(logits(model, ask), logits(tiny(torch.float32).to(dtype), ask))


def test_trainables_cast_apart_from_their_anchors_keep_step_0() -> None:
    """TRL casts the trainable parameters of a quantised model to bf16, and no buffers."""
    base = tiny(torch.float32)
    ask = batch(base, labels=False)
    before = logits(base, ask)
    model = ailora.get_peft_model(base, presets.ailora(3))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    assert torch.equal(logits(model, ask), before)
    train(model, batch(model), 1)
    assert torch.isfinite(logits(model, ask)).all()


def test_folding_a_shared_weight_is_refused_and_anchoring_it_is_not() -> None:
    model = tiny()
    layers = model.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    with pytest.raises(UserError, match="shares"):
        ailora.get_peft_model(model, presets.ailora(3, anchored=False))
    before = logits(model, batch(model, labels=False))
    wrapped = ailora.get_peft_model(model, presets.ailora(3))
    assert torch.equal(logits(wrapped, batch(model, labels=False)), before)


def test_progress_is_reported_instead_of_a_bar(capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int, str]] = []
    ailora.get_peft_model(tiny(), presets.ailora(3), on_progress=lambda *call: calls.append(call))
    assert calls[0] == (0, 4, Q0) and calls[-1] == (4, 4, "") and len(calls) == 5
    assert capfd.readouterr() == ("", "")
