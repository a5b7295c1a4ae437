"""`read_outline`: what a loaded model would say of its modules, without its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from ailora import roles
from ailora.checkpoints.structure import read_outline
from ailora.errors import UserError
from ailora.pretrained import SAFE
from tests import families
from tests.checkpoints.models import edit_json, saved

FAMILIES = sorted({"gpt2", *families.FAMILIES})
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_listed_as_the_loaded_model_is(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    folder = saved(tmp_path / "model", family, dtype, shards=True)
    outline = read_outline(folder)
    loaded = hf.AutoModel.from_pretrained(folder, dtype="auto", **SAFE)
    assert all(parameter.is_meta for parameter in outline.parameters())
    assert roles.inspect(outline) == roles.inspect(loaded)


def test_a_model_of_mixed_types_is_listed_as_it_is_stored(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "llama", torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.v_proj.weight"
    save_file({**tensors, name: tensors[name].float()}, folder / "model.safetensors")
    wide = [row for row in roles.inspect(read_outline(folder)).rows if row.dtype == torch.float32]
    assert [row.name for row in wide] == ["layers.1.self_attn.v_proj"]


def test_a_quantised_model_needs_no_package_to_be_listed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "llama")
    before = roles.inspect(read_outline(folder)).rows
    edit_json(folder / "config.json", quantization_config=BNB)
    assert roles.inspect(read_outline(folder)).rows == before


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "llama")
    edit_json(folder / "config.json", intermediate_size=40)
    with pytest.raises(UserError, match=r"mlp.*where its config.json says .* not of one model"):
        read_outline(folder)
