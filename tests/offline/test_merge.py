"""A whole checkpoint with an adapter in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ailora.adapters.folder import read_adapter
from ailora.checkpoints import open_checkpoint
from ailora.errors import UserError
from ailora.offline import merge_adapter
from tests.checkpoints.models import edit_json, files, saved, tiny
from tests.offline.models import loaded, logits, stock_adapter, with_adapter


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_the_merged_model_is_the_same_function_and_all_else_the_same_bytes(
    tmp_path: Path, family: str
) -> None:
    model = saved(tmp_path / "model", family, shards=True)
    stock_adapter(tmp_path / "adapter", family)
    report = merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
    expected = logits(with_adapter(model, tmp_path / "adapter", family), family)
    got = logits(loaded(tmp_path / "out", family), family)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    changed = {line.tensor for line in report.tensors}
    old, new = open_checkpoint(model), open_checkpoint(tmp_path / "out")
    assert changed == {n for n in old.where if not torch.equal(old.tensor(n), new.tensor(n))}
    assert len(changed) == len(read_adapter(tmp_path / "adapter").updates)
    before, after = files(model), files(tmp_path / "out")
    after.pop("ailora_merge.json")
    assert before.keys() == after.keys()
    assert all(after[name] == before[name] for name in before if name.endswith(".json"))


def test_each_tensor_is_rounded_once_to_its_own_dtype(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama", torch.bfloat16)
    stock_adapter(tmp_path / "adapter")
    report = merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
    updates = read_adapter(tmp_path / "adapter").updates
    old, new = open_checkpoint(model), open_checkpoint(tmp_path / "out")
    for line in report.tensors:
        A, B = updates[line.tensor.removesuffix(".weight")].exact()
        exact = old.tensor(line.tensor).double() + B @ A
        assert torch.equal(new.tensor(line.tensor), exact.bfloat16())
        lost = torch.linalg.norm(exact - exact.bfloat16().double())
        assert line.size == pytest.approx(float(torch.linalg.norm(B @ A)))
        assert line.loss == pytest.approx(float(lost / torch.linalg.norm(B @ A)))


def test_modules_stored_in_full_take_the_places_of_the_models(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "bert")
    stock_adapter(
        tmp_path / "adapter",
        "bert",
        target_modules=["query"],
        task_type="SEQ_CLS",
        bias="lora_only",
    )
    assert set(read_adapter(tmp_path / "adapter").whole) > {"classifier.weight"}
    merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
    expected = logits(with_adapter(model, tmp_path / "adapter", "bert"), "bert")
    got = logits(loaded(tmp_path / "out", "bert"), "bert")
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_an_adapter_of_a_headed_model_merges_into_its_body(tmp_path: Path) -> None:
    body = tiny("bert").base_model
    body.save_pretrained(tmp_path / "body")
    stock_adapter(tmp_path / "adapter", "bert", target_modules=["query"])
    edit_json(tmp_path / "adapter" / "adapter_config.json", task_type="SEQ_CLS")
    report = merge_adapter(tmp_path / "adapter", tmp_path / "body", tmp_path / "out")
    assert [line.tensor for line in report.tensors] == [
        f"encoder.layer.{layer}.attention.self.query.weight" for layer in (0, 1)
    ]


def test_a_model_that_the_adapter_is_not_of_is_refused(tmp_path: Path) -> None:
    stock_adapter(tmp_path / "adapter")
    for family in ("bert", "gpt2"):
        with pytest.raises(UserError, match=r"does not have|shape") as caught:
            merge_adapter(tmp_path / "adapter", saved(tmp_path / family, family), tmp_path / "out")
        assert "\n" not in str(caught.value)
    wide = saved(tmp_path / "wide", "llama")
    edit_json(wide / "config.json", num_key_value_heads=4)
    with pytest.raises(UserError, match="v_proj"):
        merge_adapter(tmp_path / "adapter", wide, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_shared_is_not_merged_into(tmp_path: Path) -> None:
    stock_adapter(tmp_path / "adapter", "smollm2", target_modules=["lm_head", "q_proj"])
    model = saved(tmp_path / "model", "smollm2")
    with pytest.raises(UserError, match="lm_head"):
        merge_adapter(tmp_path / "adapter", model, tmp_path / "out")
