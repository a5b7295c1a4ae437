"""`init_files` with a residual model: W_r + s B A is W, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ailora import AILoRAConfig, Role, decompose, presets
from ailora.adapters.folder import read_adapter
from ailora.checkpoints import open_checkpoint
from ailora.errors import UserError
from ailora.offline import init_files
from tests.checkpoints.models import edit_json, files, saved, tiny
from tests.offline.models import loaded, logits, with_adapter

FAMILIES = ["llama", "bert", "gpt2", "t5"]


def folded(rank: int = 4, **fields: object) -> AILoRAConfig:
    return AILoRAConfig(r=rank, anchored=False, **fields)  # type: ignore[arg-type]


def tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.tensor(name) for name in checkpoint.where}


def raw(folder: Path) -> dict[str, bytes]:
    found = {}
    for shard in open_checkpoint(folder).shards:
        data = shard.path.read_bytes()[shard.data_start :]
        found |= {name: data[entry.start : entry.stop] for name, entry in shard.entries.items()}
    return found


@pytest.mark.parametrize(
    ("family", "bake_rates"),
    [*((family, False) for family in FAMILIES), *((f, True) for f in FAMILIES if f != "gpt2")],
)
def test_residual_and_adapter_make_the_weight_again(
    tmp_path: Path, family: str, bake_rates: bool
) -> None:
    model = saved(tmp_path / "model", family, shards=True)
    report = init_files(model, tmp_path / "out", folded(lora_alpha=8, bake_rates=bake_rates))
    assert report.model is not None
    old, new = tensors(model), tensors(report.model)
    changed = {line.tensor for line in report.folded}
    assert {name for name in old if not torch.equal(old[name], new[name])} == changed
    adapter = read_adapter(report.adapter)
    assert len(adapter.updates) == len(changed)
    for name, update in adapter.updates.items():
        (tensor,) = [key for key in changed if f"base.{name}.weight".endswith(f".{key}")]
        A, B = update.exact()
        part = (B @ A).T if family == "gpt2" else B @ A
        error = torch.linalg.norm(old[tensor].double() - new[tensor].double() - part)
        assert error < 1e-5 * torch.linalg.norm(part)
        assert torch.linalg.norm(part) > 1e-3
    for name, bytes_ in raw(report.model).items():
        assert name in changed or bytes_ == raw(model)[name]


@pytest.mark.parametrize(
    ("family", "task_type"), [("llama", "CAUSAL_LM"), ("gpt2", "CAUSAL_LM"), ("bert", None)]
)
def test_the_folded_adapter_of_a_decoder_is_one_for_peft(
    tmp_path: Path, family: str, task_type: str | None
) -> None:
    report = init_files(saved(tmp_path / "model", family), tmp_path / "out", folded())
    assert report.model is not None
    assert peft.PeftConfig.from_pretrained(str(report.adapter)).task_type == task_type
    model = peft.PeftModel.from_pretrained(loaded(report.model, family), str(report.adapter))
    assert isinstance(model, peft.PeftModelForCausalLM) == (task_type is not None)


@pytest.mark.parametrize("anchored", [False, True])
def test_in_a_fused_layer_rates_cannot_be_baked(tmp_path: Path, anchored: bool) -> None:
    model = saved(tmp_path / "model", "gpt2")
    config = AILoRAConfig(r=4, anchored=anchored, bake_rates=True)
    with pytest.raises(UserError, match=r"c_attn holds several roles.*bake_rates=True"):
        init_files(model, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_over_16_bits_the_adapter_holds_what_was_taken_out_in_fp32(
    tmp_path: Path, family: str
) -> None:
    model = saved(tmp_path / "model", family, torch.bfloat16)
    report = init_files(model, tmp_path / "out", folded(), dtype="float64")
    assert report.model is not None
    old, new = tensors(model), tensors(report.model)
    for name, update in read_adapter(report.adapter).updates.items():
        assert update.A.dtype == update.B.dtype == torch.float32
        assert not torch.equal(update.A, update.A.bfloat16().float())
        (tensor,) = [key for key in new if f"base.{name}.weight".endswith(f".{key}")]
        part = update.matrix().T if family == "gpt2" else update.matrix()
        lost = torch.linalg.norm(old[tensor].double() - new[tensor].double() - part)
        assert lost < 1e-12 * torch.linalg.norm(part)


def test_the_parts_are_the_papers(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama")
    report = init_files(model, tmp_path / "out", folded())
    old, updates = tensors(model), read_adapter(report.adapter).updates
    for role, part in (("q", "principal"), ("v", "minor")):
        name = f"model.layers.1.self_attn.{role}_proj"
        triplets = decompose(old[f"{name}.weight"], 4, part)  # type: ignore[arg-type]
        A, B = updates[name].exact()
        expected = (triplets.U * triplets.S) @ triplets.Vt
        assert torch.linalg.norm(B @ A - expected) < 1e-6 * torch.linalg.norm(expected)
        assert torch.allclose(A @ A.T, triplets.S.diag(), atol=1e-6)


def test_of_a_fused_weight_only_the_roles_rows_change(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "gpt2")
    report = init_files(model, tmp_path / "out", folded())
    assert report.model is not None
    assert {line.roles for line in report.folded} == {"q+v"}
    for line in report.folded:
        moved = (tensors(model)[line.tensor] - tensors(report.model)[line.tensor]).abs().amax(0)
        q, k, v = moved.chunk(3)  # Conv1D: the stored columns are W's rows
        assert q.gt(0).all()
        assert k.eq(0).all()
        assert v.gt(0).all()


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_stock_peft_starts_from_the_original_function(tmp_path: Path, family: str) -> None:
    model = saved(tmp_path / "model", family, shards=True)
    report = init_files(model, tmp_path / "out", folded())
    assert report.model is not None
    original = logits(loaded(model, family), family)
    residual = logits(loaded(report.model, family), family)
    started = logits(with_adapter(report.model, report.adapter, family), family)
    assert (started - original).abs().max() < 1e-5 * original.abs().max()
    assert (residual - original).abs().max() > 1e-2 * original.abs().max()
    config = json.loads((report.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(report.model.absolute())
    assert "--folded-base" in (report.adapter / "README.md").read_text()
    assert config["r"] == (8 if family == "gpt2" else 4)  # two roles in one layer


@pytest.mark.parametrize("preset", [presets.pissa, presets.milora])
@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_feed_forward_blocks_start_as_files_too(tmp_path: Path, family: str, preset: Any) -> None:
    model = saved(tmp_path / "model", family)
    report = init_files(model, tmp_path / "out", preset(4, published=True, anchored=False))
    assert report.model is not None
    original = logits(loaded(model, family), family)
    started = logits(with_adapter(report.model, report.adapter, family), family)
    assert (started - original).abs().max() < 1e-5 * original.abs().max()
    roles = {role for line in report.folded for role in line.roles.split("+")}
    gate = {"*"} if family == "llama" and preset is presets.pissa else set()
    assert roles == {"q", "k", "v", "up", "down"} | gate | (
        {"o"} if preset is presets.pissa else set()
    )


def test_weights_of_16_bits_are_kept_wider_where_rounding_would_lose_a_percent(
    tmp_path: Path,
) -> None:
    model = saved(tmp_path / "model", "llama", torch.bfloat16, shards=True)
    report = init_files(model, tmp_path / "out", folded(1))
    assert report.model is not None
    new = tensors(report.model)
    assert {line.dtype for line in report.folded} == {"bfloat16", "float32"}
    for line in report.folded:
        assert line.loss < 0.01
        assert line.stored == "bfloat16"
        assert line.dtype == ("float32" if line.loss_stored >= 0.01 else "bfloat16")
        assert str(new[line.tensor].dtype) == f"torch.{line.dtype}"
    assert new["model.embed_tokens.weight"].dtype == torch.bfloat16
    # from_pretrained would cast them back to what config.json says
    config = json.loads((report.model / "config.json").read_text())
    assert config["dtype"] == "float32"
    index = json.loads((report.model / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in new.values())


def test_a_chosen_dtype_is_kept_and_its_cost_reported_as_it_is(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama", torch.bfloat16)
    report = init_files(model, tmp_path / "out", folded(1), dtype="bfloat16")
    assert report.model is not None
    old, new = tensors(model), tensors(report.model)
    updates = read_adapter(report.adapter).updates
    for line in report.folded:
        A, B = updates[line.tensor.removesuffix(".weight")].exact()
        lost = torch.linalg.norm(old[line.tensor].double() - new[line.tensor].double() - B @ A)
        assert new[line.tensor].dtype == torch.bfloat16
        assert line.loss == pytest.approx(float(lost / torch.linalg.norm(B @ A)), rel=1e-6)
    assert max(line.loss for line in report.folded) > 0.01
    assert (report.model / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_configuration_is_copied_and_gaussian_roles_leave_the_weight(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama", shards=True)
    (model / "tokenizer.json").write_text("{ }")
    report = init_files(model, tmp_path / "out", presets.lora(r=4, anchored=False))
    assert report.model is not None
    assert report.folded == ()
    copied = {name: data for name, data in files(report.model).items() if "start/" not in name}
    assert copied == files(model)


def test_the_names_are_those_of_the_class_that_will_train(tmp_path: Path) -> None:
    tiny("bert").base_model.save_pretrained(tmp_path / "body")
    plain = init_files(tmp_path / "body", tmp_path / "a", folded())
    assert all(name.startswith("encoder.") for name in read_adapter(plain.adapter).updates)
    model = saved(tmp_path / "whole", "bert")
    headed = init_files(model, tmp_path / "b", folded(task_type="SEQ_CLS"))
    adapter = read_adapter(headed.adapter)
    assert all(name.startswith("bert.encoder.") for name in adapter.updates)
    # PEFT trains and saves the head for this task, so it starts as the model's own.
    assert torch.equal(adapter.whole["classifier.weight"], tensors(model)["classifier.weight"])
    assert headed.model is not None
    started = logits(with_adapter(headed.model, headed.adapter, "bert"), "bert")
    assert torch.allclose(started, logits(loaded(model, "bert"), "bert"), atol=1e-5)


@pytest.mark.parametrize("anchored", [False, True])
def test_a_head_that_the_checkpoint_lacks_is_named(tmp_path: Path, anchored: bool) -> None:
    tiny("bert").base_model.save_pretrained(tmp_path / "body")
    config = AILoRAConfig(r=4, anchored=anchored, task_type="SEQ_CLS")
    with pytest.raises(UserError, match=r"no head for SEQ_CLS.*classifier"):
        init_files(tmp_path / "body", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"r": 17}, "r=17 for role 'v'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_dropout": 0.1}, "lora_dropout.*anchored=True"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"layers_to_transform": [7]}, "7"),
    ],
)
def test_what_cannot_be_started_is_refused_and_nothing_written(
    tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    model = saved(tmp_path / "model", "llama")  # two KV heads of 8: v is 16 x 32
    with pytest.raises(UserError, match=words) as caught:
        init_files(model, tmp_path / "out", AILoRAConfig(anchored=False, **fields))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_residual_model_is_not_folded_again(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    report = init_files(model, tmp_path / "out", folded())
    assert report.model is not None
    with pytest.raises(UserError, match="residual model") as caught:
        init_files(report.model, tmp_path / "again", folded())
    assert str(model) in str(caught.value)


def test_a_weight_that_another_module_shares_is_not_folded(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "smollm2")
    config = AILoRAConfig(
        anchored=False, r=4, roles={"q": Role(init="principal", modules=["lm_head"])}
    )
    with pytest.raises(UserError, match=r"lm_head.*model\.embed_tokens shares"):
        init_files(model, tmp_path / "out", config)


def test_weights_with_nan_are_named(tmp_path: Path) -> None:
    broken = tiny("llama")
    with torch.no_grad():
        broken.get_parameter("model.layers.0.self_attn.v_proj.weight")[0, 0] = float("nan")
    broken.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.v_proj"):
        init_files(tmp_path / "model", tmp_path / "out", folded())


def test_metadata_of_each_shard_is_kept(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama", torch.bfloat16, shards=True)
    edit_json(model / "config.json", comment="kept")
    report = init_files(model, tmp_path / "out", folded())
    assert report.model is not None
    for path in model.glob("*.safetensors"):
        with safe_open(path, "pt") as old, safe_open(report.model / path.name, "pt") as new:
            assert new.metadata() == old.metadata()
            assert set(new.keys()) == set(old.keys())
    assert json.loads((report.model / "config.json").read_text())["comment"] == "kept"
