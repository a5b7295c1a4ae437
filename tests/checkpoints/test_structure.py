"""Which stored tensor is which weight, without loading the model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from ailora.checkpoints import Structure, open_checkpoint, read_structure
from ailora.errors import UserError
from ailora.roles import find_projections
from tests.checkpoints.models import edit_json, saved, tiny
from tests.families import FAMILIES


def structure(folder: Path, task: str | None = None) -> Structure:
    return read_structure(open_checkpoint(folder), task)


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_every_projections_weight_is_found(tmp_path: Path, family: str) -> None:
    read = structure(saved(tmp_path / "model", family))
    assert all(parameter.is_meta for parameter in read.model.parameters())
    found = find_projections(tiny(family))
    assert [p.key for p in find_projections(read.model)] == [p.key for p in found]
    for projection in found:
        stored: Any = read.checkpoint.tensor(read.weight_of(projection.name))
        assert torch.equal(stored, projection.module.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "task"),
    [("bert", "SEQ_CLS"), ("bert", None), ("llama", "CAUSAL_LM"), ("gpt2", "SEQ_CLS")],
)
def test_a_checkpoint_without_the_classs_prefix_is_read_as_well(
    tmp_path: Path, family: str, task: str | None
) -> None:
    body = tiny(family).base_model
    body.save_pretrained(tmp_path / "model")
    read = structure(tmp_path / "model", task)
    names = [projection.name for projection in find_projections(read.model)]
    assert names[0].startswith(tiny(family).base_model_prefix) is (task is not None)
    wanted = [projection.module.weight for projection in find_projections(body)]
    stored = [read.checkpoint.tensor(read.weight_of(name)) for name in names]
    assert all(torch.equal(a, b) for a, b in zip(stored, wanted, strict=True))  # type: ignore[arg-type]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "bert")
    path, name = folder / "model.safetensors", "bert.encoder.layer.1.attention.self.query.weight"
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(UserError, match=name):
        structure(folder).weight_of(name.removesuffix(".weight"))


def test_a_weight_of_another_shape_or_type_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "bert")
    module = "bert.encoder.layer.0.attention.self.query"
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, f"{module}.weight": torch.zeros(3, 32)}, path)
    with pytest.raises(UserError, match=r"\(3, 32\).*\(32, 32\)"):
        structure(folder).weight_of(module)
    save_file({**tensors, f"{module}.weight": torch.zeros(32, 32, dtype=torch.int8)}, path)
    with pytest.raises(UserError, match="I8"):
        structure(folder).weight_of(module)


def test_a_quantised_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit_json(folder / "config.json", quantization_config=quantised)
    with pytest.raises(UserError, match="quantised"):
        structure(folder)


@pytest.mark.parametrize("model_type", ["nothing-known", None, 3])
def test_a_config_that_nothing_is_built_of_is_refused_in_one_line(
    tmp_path: Path, model_type: object
) -> None:
    folder = saved(tmp_path / "model")
    edit_json(folder / "config.json", model_type=model_type, architectures=None)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        structure(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_two_modules_share_are_known(tmp_path: Path) -> None:
    read = structure(saved(tmp_path / "model", "smollm2"))
    assert read.sharer("lm_head") == "model.embed_tokens"
    assert read.sharer("model.layers.0.self_attn.q_proj") is None


def with_renaming(monkeypatch: pytest.MonkeyPatch, pattern: str, to: str) -> None:
    """As transformers declares it for a model's class: rules of its own from 5.0 on."""
    try:
        from transformers.core_model_loading import WeightRenaming
    except ImportError:
        monkeypatch.setattr(
            hf.BertForSequenceClassification, "_checkpoint_conversion_mapping", {pattern: to}
        )
    else:
        with_rule(monkeypatch, WeightRenaming(pattern, to))


def with_rule(monkeypatch: pytest.MonkeyPatch, rule: object) -> None:
    module = import_module("transformers.conversion_mapping")
    monkeypatch.setattr(module, "get_model_conversion_mapping", lambda _: [rule])


def test_a_tensor_that_transformers_renames_is_found_under_its_old_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "model", "bert")
    path, name = folder / "model.safetensors", "bert.encoder.layer.0.attention.self.query.weight"
    tensors = load_file(path)
    tensors["bert.encoder.layer.0.attention.self.q.weight"] = tensors.pop(name)
    save_file(tensors, path)
    with_renaming(monkeypatch, r"self\.q\.", "self.query.")
    found = structure(folder).weight_of(name.removesuffix(".weight"))
    assert found == "bert.encoder.layer.0.attention.self.q.weight"


def test_a_renaming_that_leads_nowhere_is_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "model", "bert")
    with_renaming(monkeypatch, "query", "nothing")
    module = "bert.encoder.layer.0.attention.self.query"
    assert structure(folder).weight_of(module) == f"{module}.weight"


def test_a_weight_that_transformers_computes_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = pytest.importorskip(
        "transformers.core_model_loading", reason="transformers 4 computes no weight"
    )
    folder = saved(tmp_path / "model", "bert")
    turned = loading.WeightConverter(
        "self.query.weight", "self.query.weight", operations=[loading.Transpose()]
    )
    with_rule(monkeypatch, turned)
    with pytest.raises(UserError, match=r"builds 'bert\.encoder\.layer\.0.*get_peft_model"):
        structure(folder).weight_of("bert.encoder.layer.0.attention.self.query")
