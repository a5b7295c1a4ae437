"""A whole checkpoint with an adapter in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ailora.adapters.folder import read_adapter
from ailora.checkpoints import open_checkpoint
from ailora.errors import UserError
from ailora.offline import export_adapter, merge_adapter
from ailora.versions import is_transformers_4
from tests.checkpoints.models import edit_json, files, saved, tiny
from tests.families import inputs_for
from tests.offline.models import loaded, logits, perturb, stock_adapter, with_adapter
from tests.other_process import run_elsewhere


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


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a tied head and embeddings": ("smollm2", {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "nested names": ("llama", {"modules_to_save": ["model.embed_tokens", "layers.1.mlp.up_proj"]}),
    "every norm": ("llama", {"modules_to_save": ["norm", "input_layernorm"]}),
    "a module of several": ("llama", {"modules_to_save": ["mlp"]}),
    "transposed ones": ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["c_fc", "wte"]}),
    "an encoder-decoder's": ("t5", {"target_modules": ["q"], "modules_to_save": ["shared"]}),
    "a head of factors": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "a tied head of factors": ("smollm2", {"target_modules": ["q_proj", "lm_head"]}),
    "rslora": ("llama", {"use_rslora": True}),
    "patterns": ("llama", {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
    "every bias": ("qwen2", {"bias": "all"}),
    "every bias and a head": (
        "bert",
        {"target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"},
    ),
    "transposed layers' biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only"}),
}  # fmt: skip


@torch.no_grad()
def outputs(model: nn.Module, family: str) -> Tensor:
    found: Tensor = model(**inputs_for(family, model, labels=False)).logits.double()
    return found


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("kind", CASES)
def test_whatever_peft_saves_is_merged_as_peft_computes_it(
    tmp_path: Path, kind: str, dtype: torch.dtype, most: float
) -> None:
    family, fields = CASES[kind]
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **fields}
    base = saved(tmp_path / "model", family, dtype)
    cls: Any = type(tiny(family))
    model = peft.get_peft_model(cls.from_pretrained(base, dtype=dtype), LoraConfig(**fields))
    perturb(model)
    model.eval().save_pretrained(tmp_path / "adapter")
    if kind == "an encoder-decoder's" and is_transformers_4():
        with pytest.raises(UserError, match="transformers 4 ties those of an encoder-decoder"):
            merge_adapter(tmp_path / "adapter", base, tmp_path / "out")
        return
    merge_adapter(tmp_path / "adapter", base, tmp_path / "out")
    wide = cls.from_pretrained(base, dtype=torch.float32)
    stock = PeftModel.from_pretrained(wide, str(tmp_path / "adapter")).eval()
    expected = outputs(stock, family)
    got = outputs(cls.from_pretrained(tmp_path / "out", dtype=torch.float32).eval(), family)
    assert (got - expected).abs().max() < most * expected.abs().max()
    unchanged = outputs(tiny(family), family)
    assert (expected - unchanged).abs().max() > 0.02 * unchanged.abs().max()
    if kind == "a tied head of factors":  # where PEFT changes the embeddings too
        assert cls.from_pretrained(tmp_path / "out").config.tie_word_embeddings is False
        return
    merged = outputs(stock.merge_and_unload(), family)  # type: ignore[operator]
    assert (got - merged).abs().max() < most * expected.abs().max()


IN_A_NEW_PROCESS = """
import sys; sys.modules["ailora"] = None
import torch, transformers
from safetensors.torch import save_file
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    save_file({"logits": model(input_ids=torch.arange(5, 25).view(2, 10)).logits}, sys.argv[2])
"""


@pytest.mark.parametrize(
    "fields",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_a_tied_model_is_right_in_a_process_without_ailora(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    base = saved(tmp_path / "model", "smollm2")
    model = stock_adapter(tmp_path / "adapter", "smollm2", **fields)
    with torch.no_grad():
        expected = model(input_ids=torch.arange(5, 25).view(2, 10)).logits
    merge_adapter(tmp_path / "adapter", base, tmp_path / "out")
    run_elsewhere(IN_A_NEW_PROCESS, tmp_path / "out", tmp_path / "logits")
    got = load_file(tmp_path / "logits")["logits"]
    assert (got - expected).abs().max() < 1e-6 * expected.abs().max()


def test_one_of_several_adapters_is_merged_from_its_own_folder(tmp_path: Path) -> None:
    base = saved(tmp_path / "model")
    model = stock_adapter(tmp_path / "x", modules_to_save=["lm_head"])
    second = LoraConfig(r=2, target_modules=["k_proj"], modules_to_save=["embed_tokens"])
    model.add_adapter("second", second)
    model.set_adapter("second")
    perturb(model, seed=2)
    model.eval().save_pretrained(tmp_path / "adapters")
    for name, folder in (("default", "adapters"), ("second", "adapters/second")):
        # by stock PEFT from that folder: before 0.19 it keeps the head of the adapter before
        stock = PeftModel.from_pretrained(loaded(base), str(tmp_path / folder)).eval()
        expected = logits(stock)
        merge_adapter(tmp_path / folder, base, tmp_path / name)
        got = logits(loaded(tmp_path / name, dtype=torch.float32))
        assert (got - expected).abs().max() < 1e-6 * expected.abs().max()


def test_a_base_whose_head_is_another_is_refused(tmp_path: Path) -> None:
    """PEFT saves the base's own head beside its factors: a resized vocabulary shows."""
    stock_adapter(tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    other = tiny("llama")
    with torch.no_grad():
        other.lm_head.weight += 1  # type: ignore[operator, union-attr]
    other.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"another lm_head\.weight .*vocabulary"):
        merge_adapter(tmp_path / "adapter", tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


REFUSED = {
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True, "family": "qwen2"},
    "trainable_token_indices": {"trainable_token_indices": [1, 7]},
    "target_parameters": {"target_parameters": ["mlp.gate_proj.weight"]},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
    "embedding model.embed_tokens": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_is_not_merged_is_refused_by_name_before_anything_is_written(
    tmp_path: Path, named: str
) -> None:
    fields = dict(REFUSED[named])
    family = str(fields.pop("family", "llama"))
    base = saved(tmp_path / "model", family)
    stock_adapter(tmp_path / "adapter", family, **{"target_modules": ["q_proj"], **fields})
    for work in (
        lambda out: merge_adapter(tmp_path / "adapter", base, out),
        lambda out: export_adapter(tmp_path / "adapter", out),
    ):
        with pytest.raises(UserError, match=named) as caught:
            work(tmp_path / "out")
        assert "merge_and_unload" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
