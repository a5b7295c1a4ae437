"""DoRA and rsLoRA around the same starts; one more adapter from a started config."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import ailora
from ailora import presets
from ailora.adapters.stock import peft_layers
from ailora.errors import UserError
from tests.adapters.models import Q0, batch, factors, logits, same, tiny, train, trained

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
    model = ailora.get_peft_model(base, presets.ailora(3, alpha=6, **fields))
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
    model = ailora.get_peft_model(tiny(), presets.ailora(4, alpha=6, use_rslora=True))
    for role in peft_layers.role_factors(model, "default").values():
        assert math.isclose(role.scaling, 6 / math.sqrt(4))


@VARIANTS
def test_variants_train_as_the_folded_form_does(fields: dict[str, bool]) -> None:
    ends = []
    for base in ("anchored", "folded"):
        model = ailora.get_peft_model(tiny(), presets.ailora(3, base=base, **fields))
        train(model, batch(model), 5, lr=1e-3)
        ends.append(logits(model, batch(model, labels=False)))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("base", ["anchored", "folded"])
def test_an_adapter_added_from_a_started_config_has_the_same_start(base: str) -> None:
    model = trained(base)
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
        assert same(dict(twin.named_buffers()), dict(model.named_buffers()))
        A, _ = factors(twin, Q0)
        with torch.no_grad():
            A.delta += 1
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


def test_pefts_own_function_takes_a_deferred_start() -> None:
    import peft

    config = presets.ailora(3, task_type="SEQ_CLS")
    ours = ailora.get_peft_model(tiny(), config)
    theirs = peft.get_peft_model(tiny(), ailora.peft_config(config))
    assert type(ours) is type(theirs) is peft.PeftModelForSequenceClassification
    assert same(ours.state_dict(), theirs.state_dict())
    assert theirs.peft_config["default"].to_dict() == ours.peft_config["default"].to_dict()


def test_pefts_own_function_names_the_right_call_for_a_bare_config() -> None:
    import peft

    with pytest.raises(UserError, match="call ailora"):
        peft.get_peft_model(tiny(), presets.ailora(3))


def test_a_deferred_start_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model yet"):
        ailora.peft_config(presets.ailora(3)).save_pretrained(str(tmp_path))


def test_folding_a_shared_weight_is_refused_and_anchoring_it_is_not() -> None:
    model = tiny()
    layers = model.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    with pytest.raises(UserError, match="shares"):
        ailora.get_peft_model(model, presets.ailora(3, base="folded"))
    before = logits(model, batch(model, labels=False))
    wrapped = ailora.get_peft_model(model, presets.ailora(3))
    assert torch.equal(logits(wrapped, batch(model, labels=False)), before)


def test_progress_is_reported_instead_of_a_bar(capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int, str]] = []
    ailora.get_peft_model(tiny(), presets.ailora(3), on_progress=lambda *call: calls.append(call))
    assert calls[0] == (0, 4, Q0) and calls[-1] == (4, 4, "") and len(calls) == 5
    assert capfd.readouterr() == ("", "")
