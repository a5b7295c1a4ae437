"""`ailora.load_adapter`: exact again for training and for use, or one line that says why not."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.errors import UserError
from tests.adapters.models import (
    Q0,
    V0,
    batch,
    encoder,
    factors,
    logits,
    same,
    sentences,
    tiny,
    train,
    trained,
)

BASES = pytest.mark.parametrize("anchored", [True, False])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_anchors_and_differences_come_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained(dtype=dtype)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(dtype), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))
    for name in (Q0, V0):
        for ours, theirs in zip(factors(model, name), factors(again, name), strict=True):
            assert type(ours) is type(theirs)
            assert torch.equal(ours.weight, theirs.weight)
            assert ours.blocks == theirs.blocks and ours.side == theirs.side
        assert all(half.any() for half in factors(again, name)[0].weight.chunk(2))


def test_an_anchored_adapter_has_no_file_but_pefts_and_the_marker(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "ailora.json",
        "README.md",
    }


def test_the_marker_is_of_format_2_and_says_what_the_halves_are(folder: Path) -> None:
    marker = json.loads((folder / "ailora.json").read_text())
    assert (marker["format"], marker["form"]) == (2, "anchored")
    assert marker["config"]["roles"]["q"]["r"] == 3
    (block,) = marker["layers"][Q0]["blocks"]
    assert block == {
        "role": "q", "init": "principal", "rank": 3, "anchored": True, "lr_ratio": 1.0, "rows": None
    }  # fmt: skip
    assert {key.rpartition(".")[0] for key in marker["sketches"]} == set(marker["layers"])


@BASES
@pytest.mark.parametrize("baked", [False, True])
def test_training_goes_on_as_if_it_had_never_stopped(
    anchored: bool, baked: bool, tmp_path: Path
) -> None:
    def sgd(model: PeftModel) -> torch.optim.Optimizer:  # no state of its own to carry over
        return ailora.create_optimizer(model, torch.optim.SGD, lr=0.05)

    model = trained(anchored=anchored, bake_rates=baked)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path, is_trainable=True)
    losses = train(model, batch(model), 5, sgd(model))
    assert train(again, batch(again), 5, sgd(again)) == losses
    assert len(set(losses)) == 5


@BASES
def test_saving_what_was_loaded_writes_the_same_files(anchored: bool, tmp_path: Path) -> None:
    trained(anchored=anchored).save_pretrained(tmp_path / "first")
    again = ailora.load_adapter(tiny(), tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    files = ["adapter_model.safetensors"] + ["ailora_anchor.safetensors"] * (not anchored)
    for name in files:
        first, second = (load_file(tmp_path / run / name) for run in ("first", "second"))
        assert same(first, second)
    for name in ("ailora.json", "README.md"):
        first, second = ((tmp_path / run / name).read_text() for run in ("first", "second"))
        assert first == second
    again.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second/README.md").read_text().count("How this adapter started") == 1


@BASES
def test_loading_for_use_freezes_everything(anchored: bool, tmp_path: Path) -> None:
    model = trained(anchored=anchored)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path)
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))
    assert again.peft_config["default"].inference_mode
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert not again.training
    with pytest.raises(UserError, match="load it with is_trainable=True"):
        ailora.create_optimizer(again, lr=1e-3)


@pytest.mark.parametrize("ratio", [2, 0.5])
def test_rates_come_back_with_the_adapter(
    ratio: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles = {"q": Role(init="principal"), "v": Role(init="gaussian", lr_ratio=ratio)}
    trained(roles=roles).save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path, is_trainable=True)
    groups = ailora.create_optimizer(again, lr=1e-3).param_groups
    assert sorted(group["lr"] for group in groups) == sorted([1e-3, 1e-3 * ratio])
    parameters = [value for value in again.parameters() if value.requires_grad]
    train(again, batch(again), 1, AdamW(parameters, lr=1e-3))
    assert any("at one rate" in record.message for record in caplog.records)


def test_modules_named_by_hand_and_layers_survive(tmp_path: Path) -> None:
    roles = {"q": Role(init="principal", modules=["self.key"])}
    model = trained(roles=roles, layers_to_transform=[1])
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path, is_trainable=True)
    assert train(again, batch(again), 1) == train(model, batch(model), 1)


def test_factors_keep_the_bases_dtype_where_asked(tmp_path: Path) -> None:
    trained(dtype=torch.bfloat16).save_pretrained(tmp_path)
    for autocast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        for beside in (False, True):
            base = tiny(torch.bfloat16)
            if beside:
                base = ailora.get_peft_model(base, presets.pissa(2), "first")
            model = ailora.load_adapter(base, tmp_path, autocast_adapter_dtype=autocast)
            assert {module.weight.dtype for module in factors(model, Q0)} == {dtype}


def test_an_adapter_loads_beside_others_and_leaves_them_alone(folder: Path) -> None:
    alone = ailora.load_adapter(tiny(), folder)
    model = ailora.get_peft_model(tiny(), presets.pissa(2), "first")
    train(model, batch(model), 2)
    first = logits(model, batch(model))
    assert ailora.load_adapter(model, folder, "second", is_trainable=True) is model
    assert torch.equal(logits(model, batch(model)), first)
    assert factors(model, Q0, "second")[0].weight.requires_grad
    assert not model.peft_config["second"].inference_mode
    ailora.load_adapter(model, folder, "third")
    assert not factors(model, Q0, "third")[0].weight.requires_grad
    assert model.peft_config["third"].inference_mode
    model.set_adapter("second")
    assert torch.equal(logits(model, batch(model)), logits(alone, batch(model)))
    train(model, batch(model), 1)
    model.set_adapter("first")
    assert torch.equal(logits(model, batch(model)), first)


def test_pefts_own_call_loads_another_beside_it_with_the_callers_options(folder: Path) -> None:
    model = ailora.load_adapter(tiny(), folder)
    model.load_adapter(str(folder), "second", is_trainable=True)
    model.set_adapter("second")
    again = ailora.load_adapter(tiny(), folder)
    assert torch.equal(logits(model, batch(model)), logits(again, batch(again)))
    assert not model.peft_config["second"].inference_mode


def test_an_adapter_saved_under_another_name_lies_in_its_own_folder(tmp_path: Path) -> None:
    model = ailora.get_peft_model(tiny(), presets.pissa(2), "first")
    ailora.get_peft_model(model, AILoRAConfig(r=3), "second")
    model.set_adapter("second")
    train(model, batch(model), 2)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(tiny(), tmp_path / "second")
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))


def test_heads_come_back_as_pefts_do(tmp_path: Path) -> None:
    model = trained(task_type="SEQ_CLS")
    model.save_pretrained(tmp_path)
    for again in (
        ailora.load_adapter(tiny(), tmp_path, is_trainable=True),
        PeftModel.from_pretrained(tiny(), str(tmp_path)),
    ):
        assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))


def test_a_file_cast_to_16_bits_still_loads_for_training(folder: Path) -> None:
    exact = ailora.load_adapter(tiny(), folder)
    path = folder / "adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    again = ailora.load_adapter(tiny(), folder, is_trainable=True)
    torch.testing.assert_close(
        logits(again, batch(again)), logits(exact, batch(exact)), rtol=0, atol=0.02
    )


def test_resuming_stock_files_on_the_real_encoder_is_exact(tmp_path: Path) -> None:
    model = ailora.get_peft_model(encoder(), presets.ailora(8, task_type="SEQ_CLS"))
    train(model, sentences(labels=True), 3)
    model.save_pretrained(tmp_path)
    again = ailora.load_adapter(encoder(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, sentences()), logits(model, sentences()))


def test_loading_says_nothing_when_all_is_well(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ailora"):
        ailora.load_adapter(tiny(), folder)
    assert not caplog.records


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ("bert.encoder.layer.", "bert.body.layer."),
        ("bert.encoder.layer.0.", "bert.encoder.first."),
    ],
)
def test_an_adapter_from_before_modules_were_renamed_loads(
    tmp_path: Path, anchored: bool, given: bool, newer: str, older: str
) -> None:
    """As after an update of transformers, whose models bring the mapping along."""
    model = trained(anchored=anchored)
    wanted = logits(model, batch(model))
    model.save_pretrained(tmp_path)
    for name in ("adapter_model.safetensors", "ailora_anchor.safetensors"):
        if (tmp_path / name).exists():
            tensors = load_file(tmp_path / name)
            old = {key.replace(newer, older): t for key, t in tensors.items()}
            save_file(old, tmp_path / name, metadata={"format": "pt"})
    marker = (tmp_path / "ailora.json").read_text()
    (tmp_path / "ailora.json").write_text(marker.replace(newer, older))

    mapping = {f"^{re.escape(older)}": newer}
    with pytest.raises(UserError, match=rf"adapts {re.escape(older)}.* does not have"):
        ailora.load_adapter(tiny(), tmp_path)
    base = tiny()
    if not given:
        base._checkpoint_conversion_mapping = mapping
    again = ailora.load_adapter(
        base, tmp_path, is_trainable=True, key_mapping=mapping if given else None
    )
    torch.testing.assert_close(logits(again, batch(again)), wanted, rtol=0, atol=1e-12)
    train(again, batch(again), 2)
    again.save_pretrained(tmp_path / "new")
    last = ailora.load_adapter(tiny(), tmp_path / "new")
    torch.testing.assert_close(
        logits(last, batch(last)), logits(again, batch(again)), rtol=0, atol=1e-12
    )


def test_an_adapter_loaded_for_use_does_not_train_whatever_was_there_before(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path)
    model.delete_adapter("default")
    again = ailora.load_adapter(model, tmp_path)
    assert again.active_adapters == ["default"]
    assert not [n for n, p in again.named_parameters() if p.requires_grad and "lora_" in n]
