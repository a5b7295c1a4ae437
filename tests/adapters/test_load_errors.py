"""What `ailora.load_adapter` refuses: one line, and the model stays as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

import ailora
from ailora import AILoRAConfig, Role, presets
from ailora.errors import UserError
from tests.adapters.models import (
    Q0,
    base_weights,
    batch,
    encoder,
    logits,
    same,
    tiny,
    trained,
)
from tests.checkpoints.models import edit_json

BASES = pytest.mark.parametrize("anchored", [True, False])


def refused(model: torch.nn.Module, folder: Path, **options: object) -> str:
    weights, modules = base_weights(model), [id(module) for module in model.modules()]
    with pytest.raises(UserError) as caught:
        ailora.load_adapter(model, folder, **options)
    assert same(base_weights(model), weights)
    assert [id(module) for module in model.modules()] == modules
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    assert refused(tiny(), tmp_path) == (
        f"{tmp_path}: no adapter_config.json there; give the folder of a saved adapter"
    )
    assert refused(tiny(), tmp_path / "absent") == (
        f"{tmp_path / 'absent'}: there is no such folder; give the folder of a saved adapter, or "
        "its name on the hub"
    )


def test_a_stock_adapter_is_refused_with_the_call_that_loads_it(tmp_path: Path) -> None:
    import peft

    config = LoraConfig(target_modules=["query"])
    peft.get_peft_model(tiny(), config).save_pretrained(tmp_path)
    assert refused(tiny(), tmp_path) == (
        f"{tmp_path}: has no ailora.json, so it was not started by ailora; "
        "load it with peft.PeftModel.from_pretrained"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', '{"config": {}}'])
def test_a_corrupted_marker_is_refused(folder: Path, text: str) -> None:
    (folder / "ailora.json").write_text(text)
    assert "ailora.json: not a marker ailora wrote" in refused(tiny(), folder)


def test_a_marker_with_an_impossible_value_is_refused_by_name(folder: Path) -> None:
    marker = json.loads((folder / "ailora.json").read_text())
    marker["config"]["r"] = -2
    (folder / "ailora.json").write_text(json.dumps(marker))
    assert "r=-2: the rank must be" in refused(tiny(), folder)


def test_a_marker_of_a_later_version_is_refused(folder: Path) -> None:
    marker = json.loads((folder / "ailora.json").read_text())
    (folder / "ailora.json").write_text(json.dumps({**marker, "format": 3}))
    assert refused(tiny(), folder).endswith("format 3 is not known; update ailora")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def drop_one(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("anchored", "name"),
    [
        (True, "adapter_model.safetensors"),
        (False, "adapter_model.safetensors"),
        (False, "ailora_anchor.safetensors"),
    ],
)
@pytest.mark.parametrize("harm", [Path.unlink, cut, drop_one])
def test_a_missing_cut_off_or_incomplete_file_is_refused(
    anchored: bool, name: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    trained(anchored=anchored).save_pretrained(tmp_path)
    harm(tmp_path / name)
    assert "copy" in refused(tiny(), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", None),
        ("trainable_token_indices", "0"),
        ("trainable_token_indices", [None]),
        ("trainable_token_indices", [0]),
        ("trainable_token_indices", {"word_embeddings": [3]}),
    ],
)
def test_a_config_that_says_other_than_the_weights_is_refused(
    field: str, value: object, tmp_path: Path
) -> None:
    trained().save_pretrained(tmp_path)
    edit_json(tmp_path / "adapter_config.json", **{field: value})
    assert "copy the whole adapter folder again" in refused(tiny(), tmp_path)


@pytest.mark.parametrize("value", [[5], [5, 6, 7], [5, 10**6], {"word_embeddings": [5]}])
def test_trained_tokens_of_another_config_or_vocabulary_are_refused(
    value: object, tmp_path: Path
) -> None:
    trained(trainable_token_indices=[5, 6]).save_pretrained(tmp_path)
    edit_json(tmp_path / "adapter_config.json", trainable_token_indices=value)
    assert "not of this model's vocabulary" in refused(tiny(), tmp_path)


def test_a_marker_with_a_layer_of_no_blocks_is_refused(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path)
    marker = json.loads((tmp_path / "ailora.json").read_text())
    marker["layers"][Q0]["blocks"] = []
    (tmp_path / "ailora.json").write_text(json.dumps(marker))
    assert "not a marker ailora wrote" in refused(tiny(), tmp_path)


OTHER = {"q": Role(init="minor", r=3), "v": Role(init="principal", r=4)}


def test_an_anchor_of_another_folded_adapter_is_refused(tmp_path: Path) -> None:
    trained(anchored=False).save_pretrained(tmp_path / "ours")
    trained(anchored=False, roles=OTHER).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other/ailora_anchor.safetensors", tmp_path / "ours")
    assert "does not belong to this adapter" in refused(tiny(), tmp_path / "ours")


@BASES
def test_the_marker_of_another_adapter_is_refused(anchored: bool, tmp_path: Path) -> None:
    trained(anchored=anchored).save_pretrained(tmp_path / "ours")
    trained(anchored=anchored, roles=OTHER).save_pretrained(tmp_path / "other")
    for path in (tmp_path / "other").glob("ailora*"):
        shutil.copy(path, tmp_path / "ours")
    assert "they are not of one adapter" in refused(tiny(), tmp_path / "ours")


def test_a_marker_of_the_same_shapes_from_another_part_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its function is that of the weights, which need no marker; their start is another."""
    for name in ("pissa", "milora"):
        trained(roles=getattr(presets, name)().roles).save_pretrained(tmp_path / name)
    wanted = ailora.load_adapter(tiny(), tmp_path / "milora")
    assert not caplog.records
    shutil.copy(tmp_path / "pissa/ailora.json", tmp_path / "milora")
    model = ailora.load_adapter(tiny(), tmp_path / "milora")
    (record,) = caplog.records
    assert "the frozen half of bert" in record.message and "moved" in record.message
    assert torch.equal(logits(model, batch(model)), logits(wanted, batch(model)))


def test_weights_that_diverged_are_refused_by_the_module(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[f"base_model.model.{Q0}.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, path)
    assert f"the factors of {Q0} hold NaN or infinity" in refused(tiny(), folder)


def test_a_pickle_is_refused_and_the_way_out_leads_out(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path, safe_serialization=False)
    message = refused(tiny(), tmp_path)
    assert "adapter_model.bin: is a pickle" in message
    load, save = (f"{call}{str(tmp_path)!r})" for call in ("(model, ", "save_pretrained("))
    assert f"peft.PeftModel.from_pretrained{load}" in message and save in message
    PeftModel.from_pretrained(tiny(), str(tmp_path)).save_pretrained(str(tmp_path))
    again = ailora.load_adapter(tiny(), tmp_path, is_trainable=True)
    assert torch.equal(logits(again, batch(again)), logits(model, batch(model)))


def test_an_adapter_of_another_architecture_is_refused(folder: Path) -> None:
    message = refused(tiny(family="llama"), folder)
    assert f"adapts {Q0}, which this LlamaForCausalLM does not have" in message


def test_lora_presets_are_checked_against_the_model_too(tmp_path: Path) -> None:
    trained(roles=presets.lora().roles).save_pretrained(tmp_path)
    assert "does not have" in refused(tiny(family="llama"), tmp_path)


def test_an_adapter_of_another_size_is_refused_with_both_shapes(tmp_path: Path) -> None:
    ailora.get_peft_model(encoder(), AILoRAConfig(r=2, layers_to_transform=[0])).save_pretrained(
        tmp_path
    )
    message = refused(tiny(), tmp_path)
    assert "(384, 384)" in message and "(32, 32)" in message


def test_a_taken_name_is_refused(folder: Path) -> None:
    model = ailora.load_adapter(tiny(), folder)
    assert refused(model, folder).startswith("adapter_name='default': this model has that adapter")


def test_folding_under_other_adapters_is_refused(tmp_path: Path) -> None:
    trained(anchored=False).save_pretrained(tmp_path)
    model = ailora.get_peft_model(tiny(), AILoRAConfig(r=2))
    assert "would change the base weights" in refused(model, tmp_path, adapter_name="second")
